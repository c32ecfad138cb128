"""An adversary's settings made into the sites of a network."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from advreg.layerwise.budget import epsilon_of
from advreg.layerwise.checks import check_unit
from advreg.layerwise.memories import build_memory
from advreg.layerwise.memory import Rule
from advreg.layerwise.site import Site
from advreg.layerwise.sites import INPUT, resolve_sites


def build_sites(network: nn.Module, settings: Any) -> list[Site]:
    """The sites that an adversary's settings name, with empty memories.

    Raises:
        SiteError: A site or a budget's glob matches nothing.
        ConfigurationError: A combination of settings cannot work.
    """
    names = resolve_sites(network, settings.patterns)
    if isinstance(settings.epsilon, dict):
        resolve_sites(network, settings.epsilon)  # a budget for a site that is not there
    limits = settings.input_range or getattr(network, "input_range", None)
    return [_site(name, limits if name == INPUT else None, settings) for name in names]


def _site(name: str, limits: tuple[float, float] | None, settings: Any) -> Site:
    at_input = name == INPUT
    epsilon, step_size = epsilon_of(name, settings.epsilon), settings.step_size
    rule = Rule(
        settings.direction,
        settings.batch_dim,
        settings.start,
        None if step_size is None else step_size / epsilon if epsilon else 1.0,
        settings.examples,
    )
    relative = not at_input if settings.relative is None else settings.relative
    if not relative:
        check_unit(epsilon, limits)
    build = partial(build_memory, settings.memory, rule, at_input)
    build()  # a combination that cannot work is refused on attaching
    return Site(name, epsilon, relative, limits, settings.batch_dim, build)
