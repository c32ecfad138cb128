"""Adversarial regularisation of deep networks in PyTorch."""

from advreg.batch import Batch, View
from advreg.layerwise import LayerwiseAdversary, SiteDescription, Tap, pair
from advreg.version import __version__

__all__ = [
    "Batch",
    "LayerwiseAdversary",
    "SiteDescription",
    "Tap",
    "View",
    "__version__",
    "pair",
]
