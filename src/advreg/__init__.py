"""Adversarial regularisation of deep networks in PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from advreg.version import __version__

if TYPE_CHECKING:
    from advreg import layerwise as layerwise
    from advreg.batch import Batch, LossyView, View
    from advreg.layerwise import (
        LayerwiseAdversary,
        LayerwiseConfig,
        SiteDescription,
        Tap,
        detach,
        pair,
        paused,
    )
    from advreg.study.lots import lots_figure

__all__ = [
    "Batch",
    "LayerwiseAdversary",
    "LayerwiseConfig",
    "LossyView",
    "SiteDescription",
    "Tap",
    "View",
    "__version__",
    "detach",
    "lots_figure",
    "pair",
    "paused",
]


_BATCH, _STUDY = ("Batch", "LossyView", "View"), ("lots_figure",)


def __getattr__(name: str) -> Any:
    """All is imported on first use: torch takes seconds, in which the program must answer."""
    if name == "layerwise":
        return import_module("advreg.layerwise")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "batch" if name in _BATCH else "study.lots" if name in _STUDY else "layerwise"
    found = globals()[name] = getattr(import_module(f"advreg.{home}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
