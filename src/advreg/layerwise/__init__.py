"""The heart: layerwise adversarial training, attachable to any network."""

from advreg.layerwise.adversary import LayerwiseAdversary
from advreg.layerwise.attachment import Attachment, unwrap_model
from advreg.layerwise.describe import SiteDescription
from advreg.layerwise.directions import direction
from advreg.layerwise.pairing import pair, pairing_order
from advreg.layerwise.registry import adversary_of, paused
from advreg.layerwise.sites import default_sites, resolve_sites
from advreg.layerwise.tap import Tap

__all__ = [
    "Attachment",
    "LayerwiseAdversary",
    "SiteDescription",
    "Tap",
    "adversary_of",
    "default_sites",
    "direction",
    "pair",
    "pairing_order",
    "paused",
    "resolve_sites",
    "unwrap_model",
]
