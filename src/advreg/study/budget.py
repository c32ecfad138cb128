"""What a study holds equal: epochs, passes through the network, or seconds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import torch

from advreg.errors import CollapseWarning, ConfigurationError, InUseError
from advreg.files import check_folder
from advreg.study.cost import FEWEST_ROUNDS, measure_cost
from advreg.study.definition import Study
from advreg.study.files import read_json, write_json
from advreg.study.runs import Cell
from advreg.training.builders import method_of
from advreg.training.lock import Lock
from advreg.training.loop import update
from advreg.training.session import Session

STEPS = "steps.json"
"""The measured time of each arm's step over its baseline's, once for a study's folder."""


def epochs_of(study: Study, found: Sequence[Cell], out: Path | None) -> list[int]:
    """The epochs that the budget leaves each cell; the baseline has its group's.

    Args:
        study: The study.
        found: Its cells.
        out: The study's folder, which holds the measured times that `seconds` needs.

    Raises:
        ConfigurationError: `seconds` is the budget, and no folder is given.
    """
    costs = [1.0] * len(found)
    if study.budget == "passes":
        costs = [_passes(cell) for cell in found]
    elif study.budget == "seconds":
        if out is None:
            raise ConfigurationError(
                "A budget of seconds is measured once for a study's folder; name it with --out."
            )
        costs = _seconds(study, found, out)
    baselines = {
        cell.group: cost
        for cell, cost in zip(found, costs, strict=True)
        if cell.arm == study.baseline
    }
    return [
        max(1, round(cell.configuration.run.epochs * baselines[cell.group] / cost))
        for cell, cost in zip(found, costs, strict=True)
    ]


def _passes(cell: Cell) -> float:
    method = method_of(cell.configuration)
    return method.passes * method.replays


def _seconds(study: Study, found: Sequence[Cell], out: Path) -> list[float]:
    """Read from the study's folder, or measured into it by whoever comes first."""
    names = [f"{cell.group}: {cell.arm}" for cell in found]
    path = out / STEPS
    check_folder(out)
    while not set(names) <= (known := read_json(path) or {}).keys():
        try:
            with Lock(out):
                known = read_json(path) or {}
                if not set(names) <= known.keys():
                    write_json(path, {**_measured(study, found), **known})
        except InUseError:  # another process measures
            time.sleep(1)
    return [float(known[name]) for name in names]


def _measured(study: Study, found: Sequence[Cell]) -> dict[str, float]:
    """Seconds of a step over the baseline's, of each cell, on this machine and one thread."""
    costs: dict[str, float] = {}
    for group in study.groups:
        with torch.random.fork_rng(), warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore", CollapseWarning)  # the weights are of no interest
            steps = {}
            for cell in (cell for cell in found if cell.group == group):
                run = replace(cell.configuration.run, out="unused")
                session = Session(replace(cell.configuration, run=run))
                stack.enter_context(session.attached())
                steps[cell.arm] = one_step(session)
            measured = measure_cost(steps, study.baseline, rounds=FEWEST_ROUNDS, repeats=1)
            costs |= {f"{group}: {arm}": cost.median for arm, cost in measured.items()}
    return costs


def one_step(session: Session) -> Callable[[], None]:
    """One mini-batch as the loop does it, all its replays included."""
    batches = cycle([session.prepare(batch) for batch in session.loader.epoch(0)])
    session.model.train()

    def step() -> None:
        batch = next(batches)
        for _ in range(session.method.replays):
            update(session, [batch])

    return step
