"""Seeing sites that do nothing, and saying so once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from advreg.errors import (
    AdvregWarning,
    MemoryResetWarning,
    NoGradientWarning,
    SiteNeverRanWarning,
)
from advreg.layerwise.site import Site


class Watch:
    """Warns, once a site, of what silently weakens an adversary.

    It looks after 10, 100, 1000, ... forward passes and on detaching.
    """

    def __init__(self) -> None:
        self._next = 10
        self._said: set[tuple[str, type[AdvregWarning]]] = set()

    def forward(self, step: int, sites: Iterable[Site]) -> None:
        """Looks if forward pass `step` is one to look at; called before it runs."""
        if step > self._next:
            self._next *= 10
            self.look(sites)

    def look(self, sites: Iterable[Site]) -> None:
        """Looks at all sites now."""
        for site in sites:
            if site.alias is not None:
                continue
            if site.records == 0 and any(call.door for call in site.calls):
                self._say(
                    site,
                    NoGradientWarning,
                    "ran in compiled code but no gradient came back to it, so it is never"
                    " perturbed; call backward(), for torch.autograd.grad() does not reach it, or"
                    " leave it out of `sites`",
                )
            elif site.runs == 0:
                self._say(
                    site,
                    SiteNeverRanWarning,
                    "never ran in training mode with gradients enabled;"
                    " leave it out of `sites`, or check that the forward pass reaches it",
                )
            elif site.records == 0:
                self._say(
                    site,
                    NoGradientWarning,
                    "ran but no gradient came back to it, so it is never perturbed;"
                    " leave it out of `sites`, or check that the loss depends on it",
                )
            elif 2 * sum(call.memory.restarts for call in site.calls) > site.runs:
                self._say(
                    site,
                    MemoryResetWarning,
                    "meets another shape or device more often than not, so it is seldom"
                    " perturbed; give it inputs of one shape, or leave it out of `sites`",
                )

    def _say(self, site: Site, kind: type[AdvregWarning], what: str) -> None:
        if (site.name, kind) not in self._said:
            self._said.add((site.name, kind))
            warnings.warn(f"Site {site.name!r} {what}.", kind, stacklevel=2)
