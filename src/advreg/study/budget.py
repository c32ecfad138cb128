"""What a study holds equal: epochs, passes through the network, or seconds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from advreg.errors import CollapseWarning, ConfigurationError, InUseError
from advreg.files import check_folder
from advreg.study.cost import FEWEST_ROUNDS, Step, measure_cost
from advreg.study.definition import Study
from advreg.study.files import read_json, write_json
from advreg.study.runs import Cell
from advreg.training.builders import method_of
from advreg.training.lock import Lock
from advreg.training.loop import update
from advreg.training.session import Session

STEPS = "steps.json"
"""The measured time of each arm's step over its baseline's, once for a study's folder; by it
seconds are held equal, and the page shows it."""


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
        measured = step_times(study, found, out)
        failed = [name for name in map(name_of, found) if measured[name] is None]
        if failed:
            raise ConfigurationError(
                f"A step of {failed[0]} failed, so that its time is not known; mend that, or give"
                " budget: passes."
            )
        costs = [measured[name_of(cell)]["median"] for cell in found]
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


def name_of(cell: Cell) -> str:
    """A cell's key in `steps.json`."""
    return f"{cell.group}: {cell.arm}"


def step_times(study: Study, found: Sequence[Cell], out: Path) -> dict[str, Any]:
    """Each cell's step over the baseline's, on this machine and one thread, as a `Cost`'s fields.

    That of a cell whose step fails, or whose baseline's does, is None; its runs will say why. They
    are read from the study's folder, or measured into it by whoever comes first.

    Args:
        study: The study.
        found: Its cells.
        out: The study's folder.
    """
    names = {name_of(cell) for cell in found}
    path = out / STEPS
    check_folder(out)
    while not names <= (known := read_json(path) or {}).keys():
        try:
            with Lock(out):
                known = read_json(path) or {}
                if not names <= known.keys():
                    write_json(path, {**_measured(study, found), **known})
        except InUseError:  # another process measures
            time.sleep(1)
    return dict(known)


def _measured(study: Study, found: Sequence[Cell]) -> dict[str, Any]:
    costs: dict[str, Any] = {name_of(cell): None for cell in found}
    for group in study.groups:
        with torch.random.fork_rng(), warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore", CollapseWarning)  # the weights are of no interest
            steps = {}
            for cell in (cell for cell in found if cell.group == group):
                run = replace(cell.configuration.run, out="unused")
                with suppress(Exception):  # of somebody's own method or network, any
                    session = Session(replace(cell.configuration, run=run))
                    step = one_step(session)
                    stack.enter_context(session.attached())
                    step()
                    steps[cell.arm] = step
            if study.baseline not in steps:
                continue
            repeats = _repeats(steps[study.baseline])
            measured = measure_cost(steps, study.baseline, rounds=FEWEST_ROUNDS, repeats=repeats)
            costs |= {f"{group}: {arm}": asdict(cost) for arm, cost in measured.items()}
    return costs


def _repeats(step: Step) -> int:
    """Steps a turn: of short ones some, so that a turn is not within the clock's noise."""
    began = time.perf_counter()
    step()
    return max(1, min(5, round(0.05 / (time.perf_counter() - began))))


def one_step(session: Session) -> Callable[[], None]:
    """One mini-batch as the loop does it, all its replays included."""
    batches = cycle([session.prepare(batch) for batch in session.loader.epoch(0)])
    session.model.train()

    def step() -> None:
        batch = next(batches)
        for _ in range(session.method.replays):
            update(session, [batch])

    return step
