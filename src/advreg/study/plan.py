"""Arms by seeds, run in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any

import torch

from advreg.errors import ConfigurationError

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


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_plan(
    plan: Plan, work: Work, workers: int | None = None, progress: Progress | None = None
) -> Outcome:
    """Runs a plan in fresh processes of one torch thread each.

    A run's result depends on its arm and its seed alone, not on the number of workers. A failed
    run is reported and loses no other; Ctrl-C keeps what is finished.

    Args:
        plan: The arms and seeds.
        work: Does one run.
        workers: Number of processes; None is one a core.
        progress: Called after each run.

    Raises:
        ConfigurationError: There would be no worker.
    """
    if workers is not None and workers < 1:
        raise ConfigurationError(f"workers is {workers}; give a whole number of at least 1.")
    runs = list(plan.runs())
    # Spawned, for a fork of a process that has used threads may hang.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(workers or available_cores(), len(runs)), context, _prepare_worker, (stop,)
    )
    interrupted = False
    futures: dict[Future[Row], tuple[Arm, int]] = {}
    try:
        for arm, seed in runs:
            futures[pool.submit(_run, work, arm, seed)] = (arm, seed)
        for done, future in enumerate(as_completed(futures), start=1):
            arm, seed = futures[future]
            if progress is not None:
                progress(done, len(runs), f"{arm.label}, seed {seed}")
    except KeyboardInterrupt:
        interrupted = True
        stop.set()
    finally:
        pool.shutdown(cancel_futures=True)
    return _collect(futures, interrupted)


_stop: Event


def _prepare_worker(stop: Event) -> None:
    global _stop
    _stop = stop
    torch.set_num_threads(1)
    # A terminal sends Ctrl-C to every process: the parent alone decides what is kept.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for its next run for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(work: Work, arm: Arm, seed: int) -> Row:
    # The pool hands out runs before a worker is free for them; those it cannot take back.
    if _stop.is_set():
        raise KeyboardInterrupt
    return work(arm, seed)


def _collect(futures: dict[Future[Row], tuple[Arm, int]], interrupted: bool) -> Outcome:
    rows, failures = [], []
    for future, (arm, seed) in futures.items():
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or isinstance(error, KeyboardInterrupt):
            continue
        if error is None:
            rows.append({"arm": arm.label, "seed": seed, **future.result()})
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            failures.append(Failure(arm.label, seed, reason))
    return Outcome(rows, failures, interrupted)
