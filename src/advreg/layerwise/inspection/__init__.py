"""Seeing what an adversary does: its sites described, and warnings where it does nothing."""

from advreg.layerwise.inspection.describe import SiteDescription, describe_sites
from advreg.layerwise.inspection.diagnostics import Diagnostics

__all__ = ["Diagnostics", "SiteDescription", "describe_sites"]
