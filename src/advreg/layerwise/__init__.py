"""The heart: layerwise adversarial training, attachable to any network."""

from advreg.layerwise.adversary import LayerwiseAdversary
from advreg.layerwise.attach import Attachment
from advreg.layerwise.config import LayerwiseConfig
from advreg.layerwise.directions import direction
from advreg.layerwise.example_memory import ExampleMemory
from advreg.layerwise.hooks import register_site_hook
from advreg.layerwise.inspection import SiteDescription, SiteProbe
from advreg.layerwise.memory import Memory, register_memory
from advreg.layerwise.pairing import pair, pairing_order
from advreg.layerwise.registry import adversary_of, detach, paused, unwrap_model
from advreg.layerwise.sites import (
    INPUT,
    Tap,
    default_sites,
    register_site_rule,
    resolve_sites,
)
from advreg.layerwise.slot_memory import SlotMemory

__all__ = [
    "INPUT",
    "Attachment",
    "ExampleMemory",
    "LayerwiseAdversary",
    "LayerwiseConfig",
    "Memory",
    "SiteDescription",
    "SiteProbe",
    "SlotMemory",
    "Tap",
    "adversary_of",
    "default_sites",
    "detach",
    "direction",
    "pair",
    "pairing_order",
    "paused",
    "register_memory",
    "register_site_hook",
    "register_site_rule",
    "resolve_sites",
    "unwrap_model",
]
