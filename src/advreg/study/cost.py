"""The time of a training step relative to plain training's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from advreg.errors import ConfigurationError

FEWEST_ROUNDS = 20
"""Under so many the quartiles say little."""


@dataclass(frozen=True)
class Cost:
    """The time of a step over the baseline's, and its spread over rounds.

    Attributes:
        median: Of the rounds' ratios.
        lower: Their lower quartile.
        upper: Their upper quartile.
        rounds: How many there were.
        milliseconds: Of one step, the median over rounds.
    """

    median: float
    lower: float
    upper: float
    rounds: int
    milliseconds: float


def measure_cost(
    steps: Mapping[str, Callable[[], object]],
    baseline: str,
    *,
    rounds: int = 30,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Cost]:
    """Times steps in turn, A B C A B C ..., on one thread.

    In turn, because a machine's speed drifts: a round's ratio compares neighbours in time.

    Args:
        steps: For each label, a function that makes one training step.
        baseline: The label that the others are divided by.
        rounds: How often each has its turn.
        repeats: Steps a turn.
        clock: Returns seconds.

    Raises:
        ConfigurationError: The baseline is not among the steps, or the rounds are too few.
    """
    if baseline not in steps:
        raise ConfigurationError(
            f"The baseline {baseline!r} is not timed; choose one of {', '.join(steps)}."
        )
    if rounds < FEWEST_ROUNDS or repeats < 1:
        raise ConfigurationError(
            f"rounds is {rounds} and repeats {repeats}; give at least {FEWEST_ROUNDS} and 1."
        )
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    with one_thread():
        for turn in range(-1, rounds):  # the first one warms up and is not counted
            for label, step in steps.items():
                began = clock()
                for _ in range(repeats):
                    step()
                if turn >= 0:
                    seconds[label].append((clock() - began) / repeats)
    return {label: _cost(times, seconds[baseline]) for label, times in seconds.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cost(times: list[float], baseline: list[float]) -> Cost:
    ratios = [mine / plain for mine, plain in zip(times, baseline, strict=True)]
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return Cost(median, lower, upper, len(ratios), 1000 * statistics.median(times))
