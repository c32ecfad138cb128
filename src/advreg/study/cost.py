"""The time of a training step relative to plain training's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from advreg.errors import ConfigurationError

Step = Callable[[], object]
"""Makes one training step."""

Timer = Callable[[], float]
"""Returns seconds."""

Seconds = Mapping[str, list[float]]
"""Of a step; for each label one number a round."""

Progress = Callable[[int, int, Seconds], None]
"""Called with the turns done, all turns, and the seconds so far."""

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
    steps: Mapping[str, Step],
    baseline: str,
    *,
    rounds: int = 30,
    repeats: int = 5,
    clock: Timer = time.perf_counter,
) -> dict[str, Cost]:
    """Times steps in turn on one thread, and divides by one of them; see `time_steps`.

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
    return relative(time_steps(steps, rounds=rounds, repeats=repeats, clock=clock), baseline)


def time_steps(
    steps: Mapping[str, Step],
    *,
    rounds: int = 30,
    repeats: int = 5,
    warmup: int = 1,
    threads: int | None = 1,
    clock: Timer = time.perf_counter,
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Times steps in turn, A B C, C B A, B C A, A C B, C A B, ...

    In turn, because a machine's speed drifts: a round compares neighbours in time. And back
    again, so that a steady drift favours a label in one round as it hurts it in the next. Each
    begins as often as another, for one that follows itself finds its data in the caches.

    Args:
        steps: For each label, a function that makes one training step.
        rounds: How often each has its turn.
        repeats: Steps a turn.
        warmup: Turns before the first one that counts: memories fill, compilers compile.
        threads: Of the CPU while measuring; None leaves them as they are.
        clock: Returns seconds; see `device_clock`.
        progress: Called after each turn, those of the warm-up among them.

    Returns:
        The seconds of a step, for each label one number a round.

    Raises:
        ConfigurationError: The rounds are too few.
    """
    if rounds < FEWEST_ROUNDS or repeats < 1:
        raise ConfigurationError(
            f"rounds is {rounds} and repeats {repeats}; give at least {FEWEST_ROUNDS} and 1."
        )
    seconds: dict[str, list[float]] = {label: [] for label in steps}
    total = (warmup + rounds) * len(steps)
    with torch_threads(threads):
        for turn in range(-warmup, rounds):
            for count, label in enumerate(_order(list(steps), turn), start=1):
                began = clock()
                for _ in range(repeats):
                    steps[label]()
                if turn >= 0:
                    seconds[label].append((clock() - began) / repeats)
                if progress is not None:
                    progress((warmup + turn) * len(steps) + count, total, seconds)
    return seconds


def relative(seconds: Seconds, baseline: str) -> dict[str, Cost]:
    """What `time_steps` returned, divided round by round by one of its labels."""
    return {label: _cost(times, seconds[baseline]) for label, times in seconds.items()}


def device_clock(device: torch.device | str) -> Timer:
    """A clock that first waits for a GPU to finish what it was given."""
    if torch.device(device).type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within it torch computes on so many threads; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _order(labels: list[str], turn: int) -> list[str]:
    first = turn // 2 % len(labels)
    return (labels[first:] + labels[:first])[:: -1 if turn % 2 else 1]


def _cost(times: list[float], baseline: list[float]) -> Cost:
    ratios = [mine / plain for mine, plain in zip(times, baseline, strict=True)]
    lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return Cost(median, lower, upper, len(ratios), 1000 * statistics.median(times))
