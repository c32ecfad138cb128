"""How large a perturbation may be, site by site and step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from advreg.errors import ConfigurationError, SiteError
from advreg.layerwise.sites import matches
from advreg.units import Number, non_negative

Epsilon = Number | Mapping[str, Number]
"""One budget for all sites, or one for each site glob."""

SHARES: dict[str, Callable[[int], float]] = {
    "sum": lambda sites: 1 / sites,
    "root": lambda sites: sites**-0.5,
}
"""Rules that share one budget over L sites: the factor on every site's epsilon.

`sum` keeps the sum of the epsilons, `root` the root of the sum of their squares.
"""


def parse_epsilon(epsilon: Epsilon) -> float | dict[str, float]:
    """Reads budgets, fractions included.

    Raises:
        ConfigurationError: One is negative or not a number.
    """
    if isinstance(epsilon, Mapping):
        if not epsilon:
            raise ConfigurationError("epsilon is an empty mapping; give a budget for a site glob.")
        return {site: non_negative(value, f"epsilon of {site}") for site, value in epsilon.items()}
    return non_negative(epsilon, "epsilon")


def epsilon_of(site: str, epsilon: float | dict[str, float]) -> float:
    """The budget of one site; of several globs that match it, the last one counts.

    Raises:
        SiteError: No glob of the mapping matches the site.
    """
    if isinstance(epsilon, float):
        return epsilon
    fitting = [value for pattern, value in epsilon.items() if matches(pattern, site)]
    if not fitting:
        raise SiteError(
            f"epsilon has no budget for site {site!r}; add it, or '**' for all other sites, first."
        )
    return fitting[-1]


def root_mean_square(activation: Tensor) -> Tensor:
    """The scale of a relative budget: the RMS over the whole tensor, a float32 scalar.

    An activation that is not finite has no scale: zero, so that no later step is the worse for it.
    """
    wide = torch.promote_types(activation.dtype, torch.float32)
    norm = torch.linalg.vector_norm(activation.detach(), dtype=wide)
    return (norm / max(activation.numel(), 1) ** 0.5).float().nan_to_num_(0.0, 0.0, 0.0)


def warmed_up(step: int, warmup: int) -> float:
    """The factor on epsilon in mini-batch `step` (from 1): linear up to `warmup`, then 1."""
    return min(1.0, step / warmup) if warmup > 0 else 1.0
