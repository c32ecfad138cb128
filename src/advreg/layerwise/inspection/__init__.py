"""Seeing what an adversary does: sites described and probed, warnings where it does nothing."""

from advreg.layerwise.inspection.describe import SiteDescription, describe_sites
from advreg.layerwise.inspection.diagnostics import Diagnostics
from advreg.layerwise.inspection.probe import SiteProbe

__all__ = ["Diagnostics", "SiteDescription", "SiteProbe", "describe_sites"]
