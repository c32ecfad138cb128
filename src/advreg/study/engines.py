"""Where the runs of a study are done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from advreg.errors import ConfigurationError
from advreg.study.execution import execute
from advreg.study.pool import Ended, available_cores, run_pool
from advreg.study.runs import StudyRun


class Watch(Protocol):
    """Follows runs while an engine does them; see `run_pool`.

    Attributes:
        until: When, by `time.monotonic`, to leave what is not finished, saved.
    """

    until: float

    def ended(self, index: int, found: Ended) -> None:
        """Called with a run's index and what it came to."""

    def tick(self, under_way: Sequence[int]) -> None:
        """Called every second with the indices of those under way."""


class Engine(Protocol):
    """Does runs somewhere, as `run_pool` does them in processes of this machine.

    Attributes:
        places: How many go on at a time, for people.
    """

    places: str

    def __call__(
        self, runs: Sequence[StudyRun], out: Path, watch: Watch
    ) -> tuple[list[Ended | None], bool]:
        """What `run_pool` returns; the work is `execute`."""


class Here:
    """Processes of this machine.

    Args:
        workers: How many; None is one a core, or one a GPU where there are some.
        per_device: Runs at a time on one GPU; None is one.
    """

    def __init__(self, workers: int | None = None, per_device: int | None = None) -> None:
        self.environments = devices(per_device)
        cores = len(self.environments) if self.environments[0] else available_cores()
        self.at_once = cores if workers is None else workers
        self.places = f"{self.at_once} at a time"

    def __call__(
        self, runs: Sequence[StudyRun], out: Path, watch: Watch
    ) -> tuple[list[Ended | None], bool]:
        """See `Engine`."""
        return run_pool(
            runs,
            partial(execute, out=out),
            self.at_once,
            ended=watch.ended,
            tick=watch.tick,
            environments=self.environments,
            until=watch.until,
        )


def devices(per_device: int | None) -> list[dict[str, str]]:
    """The environments of as many workers as fit, GPU by GPU; one empty one without a GPU.

    Args:
        per_device: Workers that share a GPU; None is one.

    Raises:
        ConfigurationError: It is under one.
    """
    if per_device is not None and per_device < 1:
        raise ConfigurationError(f"per_device is {per_device}; give a whole number of at least 1.")
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",")[:count] if given else [str(index) for index in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names * (per_device or 1)] or [{}]
