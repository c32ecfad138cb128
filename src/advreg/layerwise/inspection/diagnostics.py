"""Warnings about sites that do nothing, each once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

from advreg.errors import (
    AdvregWarning,
    EmptyPerturbationWarning,
    MemoryResetWarning,
    NeverTrainingWarning,
    NoGradientWarning,
    SiteNeverRanWarning,
)
from advreg.layerwise.site import Site, idle_defaults
from advreg.layerwise.sites import INPUT


class Diagnostics:
    """Warns, once a site, of what silently weakens an adversary.

    The sites are checked after 10, 100, 1000, ... forward passes and on detaching.

    Attributes:
        next_step: The number of forward passes after which to check next.
    """

    def __init__(self) -> None:
        self.next_step = 10
        self._said: set[tuple[str, type[AdvregWarning]]] = set()
        self._evaluating = 0  # forward passes with gradients in evaluation mode
        self._trained = False

    def not_training(self) -> None:
        """Notes a forward pass with gradients in evaluation mode; the tenth is warned of."""
        self._evaluating += 1
        if self._evaluating == 10:
            self._warn_of_evaluation()

    def check(self, step: int, sites: Iterable[Site], compiled: Callable[[Site], bool]) -> None:
        """Checks all sites now.

        Args:
            step: Forward passes so far.
            sites: The sites.
            compiled: Whether a site has run in compiled code.
        """
        self._trained = self._trained or step > 0
        while step >= self.next_step:
            self.next_step *= 10
        sites = [site for site in sites if site.alias is None]
        hidden = [site for site in sites if site.default and site.name != INPUT]
        if hidden and not any(int(site.records) for site in hidden):
            self._say_of_defaults(hidden)
            silent = hidden
        else:
            silent = idle_defaults(sites)
        for site in sites:
            if not any(site is other for other in silent):
                self._check(site, compiled(site))
        if 10 <= step < 100:  # once: example memory is long to go through later
            self._check_zeros(sites)

    def finish(self, step: int, sites: Iterable[Site], compiled: Callable[[Site], bool]) -> None:
        """Checks once more, on detaching."""
        sites = list(sites)
        if step > 1 or any(map(compiled, sites)):
            self.check(step, sites, compiled)
        elif step == 0 and self._evaluating:
            self._warn_of_evaluation()

    def _check(self, site: Site, compiled: bool) -> None:
        if site.records == 0 and compiled:
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
        elif _is_mostly_empty(site):
            self._say(
                site,
                MemoryResetWarning,
                "has another shape or device more often than not, which empties its memory, so"
                " it is seldom perturbed; give it inputs of one shape, or leave it out of `sites`",
            )

    def _say_of_defaults(self, sites: list[Site]) -> None:
        ran = any(site.runs for site in sites)
        kind = NoGradientWarning if ran else SiteNeverRanWarning
        if ("", kind) not in self._said:
            self._said.add(("", kind))
            what = "no gradient came back to any" if ran else "none ever ran"
            warnings.warn(
                f"The network's default sites ({sites[0].name!r} and {len(sites) - 1} more) are"
                f" never perturbed: {what}; call backward() in training mode, or name other sites.",
                kind,
                stacklevel=2,
            )

    def _check_zeros(self, sites: list[Site]) -> None:
        memories = [call.memory for site in sites if int(site.records) for call in site.calls]
        empty = memories and all(memory.zeros() == 1 for memory in memories)
        if empty and ("", EmptyPerturbationWarning) not in self._said:
            self._said.add(("", EmptyPerturbationWarning))
            warnings.warn(
                "Every gradient that came back to the attached network's sites is zero, so that"
                " nothing is perturbed; give a loss that depends on what the network returns (the"
                " cross entropy over a single logit does not).",
                EmptyPerturbationWarning,
                stacklevel=2,
            )

    def _warn_of_evaluation(self) -> None:
        if not self._trained and ("", NeverTrainingWarning) not in self._said:
            self._said.add(("", NeverTrainingWarning))
            warnings.warn(
                f"The attached network ran {self._evaluating} times with gradients but in"
                " evaluation mode, where nothing is perturbed; call model.train() before"
                " training, or adversary.paused() around passes that are not training.",
                NeverTrainingWarning,
                stacklevel=2,
            )

    def _say(self, site: Site, kind: type[AdvregWarning], what: str) -> None:
        if (site.name, kind) not in self._said:
            self._said.add((site.name, kind))
            warnings.warn(f"Site {site.name!r} {what}.", kind, stacklevel=2)


def _is_mostly_empty(site: Site) -> bool:
    memories = [call.memory for call in site.calls]
    emptied = 2 * sum(memory.resets for memory in memories) > site.runs
    return emptied or any(memory.missing() > 0.5 for memory in memories)
