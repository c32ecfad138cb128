"""Adversarial regularisation of deep networks in PyTorch."""

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
    "pair",
    "paused",
]
