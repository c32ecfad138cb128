"""How large a perturbation may be, site by site and step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from advreg.errors import ConfigurationError, SiteError
from advreg.layerwise.sites import matches
from advreg.units import Number, non_negative

Epsilon = Number | Mapping[str, Number]
"""One budget for all sites, or one for each site glob."""

AUTO = "auto"
"""The budget that a method sets as it trains."""

BUDGET_SPLITS: dict[str, Callable[[int], float]] = {
    "sum": lambda sites: 1 / sites,
    "root": lambda sites: sites**-0.5,
}
"""Rules that split one budget over L sites: the factor on every site's epsilon.

`sum` keeps the sum of the epsilons, `root` the root of the sum of their squares.
"""


def parse_epsilon(epsilon: Epsilon) -> float | dict[str, float]:
    """Reads budgets, fractions included.

    Raises:
        ConfigurationError: One is negative or not a number, or left to a method.
    """
    if epsilon == AUTO:
        raise ConfigurationError(
            'epsilon="auto" follows the training loss, which an adversary does not see: use the'
            " method layerwise, or set adversary.scale between steps."
        )
    if isinstance(epsilon, Mapping):
        if not epsilon:
            raise ConfigurationError("epsilon is an empty mapping; give a budget for a site glob.")
        return {site: non_negative(value, f"epsilon of {site}") for site, value in epsilon.items()}
    return non_negative(epsilon, "epsilon")


def epsilon_of(site: str, epsilon: Epsilon) -> float:
    """The budget of one site; of several globs that match it, the last one counts.

    Raises:
        SiteError: No glob of the mapping matches the site.
    """
    if not isinstance(epsilon, Mapping):
        return float(epsilon)
    fitting = [float(value) for pattern, value in epsilon.items() if matches(pattern, site)]
    if not fitting:
        raise SiteError(
            f"epsilon has no budget for site {site!r}; add it, or '**' for all other sites, first."
        )
    return fitting[-1]
