"""Arms by seeds, run in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from advreg.errors import ConfigurationError
from advreg.study.pool import Ended, run_pool

Row = dict[str, Any]
"""What one run found, ready for JSON."""

Work = Callable[["Arm", int], Row]
"""Does one run of an arm from a seed; importable by name, for it is called in another process."""

Progress = Callable[[int, int, str], None]
"""Called with the runs done, all runs, and the name of the last one."""


@dataclass(frozen=True)
class Arm:
    """One way of training that a study compares.

    Args:
        label: What people read; no two arms of a plan share it.
        method: A key of `advreg.methods.METHODS`.
        settings: Of the method.
        source: Where the settings come from, for people.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Plan:
    """Every arm from every seed.

    Args:
        arms: The first one is the baseline.
        seeds: The same for every arm, so that differences are paired.

    Raises:
        ConfigurationError: There is no arm or seed, or one is there twice.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        for name, items in (("arm", labels), ("seed", self.seeds)):
            if not items or len(set(items)) < len(items):
                raise ConfigurationError(
                    f"The {name}s are {list(items)}; give at least one {name}, each only once."
                )

    def runs(self) -> Iterator[tuple[Arm, int]]:
        """Seed by seed, so that a study stopped early still has pairs."""
        return ((arm, seed) for seed in self.seeds for arm in self.arms)


@dataclass(frozen=True)
class Failure:
    """A run that came to nothing.

    Attributes:
        arm: Its label.
        seed: Its seed.
        reason: One line.
    """

    arm: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What running a plan gave.

    Attributes:
        rows: Of the runs that finished, in the plan's order, each with its `arm` and `seed`.
        failures: The runs that did not, in the plan's order.
        interrupted: Whether Ctrl-C ended it early.
    """

    rows: list[Row]
    failures: list[Failure]
    interrupted: bool


def run_plan(
    plan: Plan, work: Work, workers: int | None = None, progress: Progress | None = None
) -> Outcome:
    """`run_arms` of every arm from every seed."""
    return run_arms(list(plan.runs()), work, workers, progress)


def run_arms(
    runs: Sequence[tuple[Arm, int]],
    work: Work,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Runs arms from seeds in fresh processes of one torch thread each.

    A run's result depends on its arm and its seed alone, not on the number of workers. A failed
    run is reported and loses no other; Ctrl-C keeps what is finished.

    Args:
        runs: The arms, each with its seed, in this order.
        work: Does one run.
        workers: Number of processes; None is one a core.
        progress: Called after each run.

    Raises:
        ConfigurationError: There would be no worker.
    """
    done = 0

    def ended(index: int, found: Ended) -> None:
        nonlocal done
        arm, seed = runs[index]
        if found.interrupted:
            return
        done += 1
        if progress is not None:
            progress(done, len(runs), f"{arm.label}, seed {seed}")

    found, interrupted = run_pool(runs, partial(_run, work), workers, ended=ended)
    return _collect(list(runs), found, interrupted)


def _run(work: Work, run: tuple[Arm, int]) -> Row:
    return work(*run)


def _collect(runs: list[tuple[Arm, int]], found: list[Ended | None], interrupted: bool) -> Outcome:
    rows, failures = [], []
    for (arm, seed), ended in zip(runs, found, strict=True):
        if ended is None or ended.interrupted:
            continue
        if ended.reason is None:
            rows.append({"arm": arm.label, "seed": seed, **ended.value})
        else:
            failures.append(Failure(arm.label, seed, ended.reason))
    return Outcome(rows, failures, interrupted)
