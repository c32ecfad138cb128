"""The runs of a study as tasks on a Ray cluster, whose nodes may come and go."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from advreg.errors import ConfigurationError
from advreg.extras import require
from advreg.study.engines import Watch
from advreg.study.execution import BUSY, FAILURE, ROW, execute
from advreg.study.files import read_json, write_json
from advreg.study.pool import GRACE, TICK, Ended, requests_to_stop
from advreg.study.runs import StudyRun

RETRIES = 20
"""How often a run whose node or process was lost is begun again, where it was."""

OWNER = 30.0
"""Seconds that a task waits for the process of a lost node to give its run up."""


class OnRay:
    """Does runs on a Ray cluster, each a task; an `Engine`.

    The study's folder and the data have the same paths on every node. Nodes that share no disk
    work, too: what a finished run has found travels with the task, but a lost run begins again.

    Args:
        address: Of the cluster; None is RAY_ADDRESS, or else a cluster on this machine alone.
        cpus: Cores that Ray sets aside for a run.
        gpus: GPUs, or a part of one; None is 1 / per_device where the cluster has some.
        per_device: Runs at a time on one GPU.
        at_once: Tasks at most; None is all.

    Raises:
        ConfigurationError: There is no such cluster, or the resources cannot be.
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float | None = None,
        per_device: int | None = None,
        at_once: int | None = None,
    ) -> None:
        for name, value, least in (("per_device", per_device, 1), ("workers", at_once, 1)):
            if value is not None and value < least:
                raise ConfigurationError(f"{name} is {value}; give a whole number from {least} on.")
        for name, number in (("cpus", cpus), ("gpus", gpus or 0.0)):
            if not 0 <= number < math.inf:
                raise ConfigurationError(f"{name} is {number}; give a number of at least 0.")
        self.ray: Any = require("ray", extra="ray", what="--engine ray")
        if not self.ray.is_initialized():
            try:
                self.ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise ConfigurationError(
                    f"There is no Ray cluster at {address or 'RAY_ADDRESS'} ({reason}); start one"
                    " with ray start --head, or name another with --address."
                ) from None
        has = self.ray.cluster_resources()
        if gpus is None:
            gpus = 1 / (per_device or 1) if has.get("GPU") else 0.0
        self.needs = {"num_cpus": cpus, "num_gpus": gpus}
        self.at_once = at_once
        nodes = sum(node["Alive"] for node in self.ray.nodes())
        self.places = f"tasks of {cpus:g} cores and {gpus:g} GPUs on {nodes} nodes of Ray"
        if cpus > has.get("CPU", 0) or gpus > has.get("GPU", 0):
            console = Console(highlight=False)
            console.print("Ray has no node for such a task; they wait until one joins.")

    def __call__(
        self, runs: Sequence[StudyRun], out: Path, watch: Watch
    ) -> tuple[list[Ended | None], bool]:
        """See `Engine`."""
        task = self.ray.remote(max_retries=RETRIES, **self.needs)(_do)
        found: list[Ended | None] = [None] * len(runs)
        waiting = iter(range(len(runs)))
        pending: dict[Any, int] = {}
        stops, last = False, math.inf
        with requests_to_stop() as asked:
            while True:
                if not stops and (asked or time.monotonic() > watch.until):
                    stops, last = True, time.monotonic() + GRACE
                    for reference in pending:
                        self.ray.cancel(reference)
                if not stops:
                    room = None if self.at_once is None else self.at_once - len(pending)
                    for index in islice(waiting, room):
                        pending[task.remote(runs[index], out.absolute())] = index
                if not pending or len(asked) > 1 or time.monotonic() > last:
                    break
                ready, _ = self.ray.wait(list(pending), timeout=TICK)
                for reference in ready:
                    index = pending.pop(reference)
                    found[index] = outcome = self._outcome(reference, runs[index].folder(out))
                    watch.ended(index, outcome)
                watch.tick(list(pending.values()))
            for reference in pending:
                self.ray.cancel(reference, force=True)
        return found, bool(asked)

    def _outcome(self, reference: Any, folder: Path) -> Ended:
        """What a task came to; the files of a node that shares no disk are written here."""
        try:
            state, files = self.ray.get(reference)
        except (self.ray.exceptions.TaskCancelledError, KeyboardInterrupt):
            return Ended(interrupted=True)
        except self.ray.exceptions.RayError as error:
            return Ended(reason=" ".join(f"{type(error).__name__}: {error}".split())[:500])
        for name, content in files.items():
            if not (folder / name).exists():
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / name, content)
        return Ended(state)


def _do(run: StudyRun, out: Path) -> tuple[str, dict[str, Any]]:
    """A task: a run, and what it left."""
    end = time.monotonic() + OWNER
    while (state := execute(run, out)) == BUSY and time.monotonic() < end:
        time.sleep(1)
    kept = {name: read_json(run.folder(out) / name) for name in (ROW, FAILURE)}
    return state, {name: content for name, content in kept.items() if content is not None}
