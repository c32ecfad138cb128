"""Adversarial regularisation of deep networks in PyTorch."""

from typing import TYPE_CHECKING, Any

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
from advreg.version import __version__

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """What needs more than torch is imported on first use."""
    if name == "lots_figure":
        from advreg.study.lots import lots_figure

        return lots_figure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
