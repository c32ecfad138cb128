"""Whole steps of the training loop beside bare ones, for `micro.py`."""

from __future__ import annotations

import copy
import io
import os
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from harness import figures, timed
from torch.nn import functional as F

from advreg.data import DataSplits, ImageData
from advreg.study.cost import Step
from advreg.study.peak import Build
from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    ModelSettings,
    RunFolder,
    RunSettings,
)
from advreg.training.builders import build_optimizer, resolve
from advreg.training.interrupts import Interrupts
from advreg.training.loop import train_epoch
from advreg.training.records import Records
from advreg.training.session import Session


def loop(options: Namespace) -> dict[str, Any]:
    """An epoch of the training loop over as many bare steps, under plain training.

    Beside it a second bare copy over the first: what the figure's own error is.
    """
    seconds: dict[str, list[float]] = {"bare": [], "bare, again": [], "loop": []}
    for _ in range(options.builds):
        for label, found in _race(options).items():
            seconds[label] += found
    rows = figures(seconds, "bare")
    again = rows["bare, again"]["over bare"]
    return rows["loop"] | {"bare, again, over bare": again, "steps a turn": options.steps}


def _race(options: Namespace) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        session = made_session(folder, options)
        arms = {"bare": _bare_steps(session), "bare, again": _bare_steps(session)}
        stack.enter_context(session.attached())
        arms["loop"] = loop_epoch(session, folder, stack)
        return in_turn(arms, options)


def in_turn(arms: dict[str, Step], options: Namespace) -> dict[str, list[float]]:
    """The seconds of each arm, a round at a time."""
    builds: dict[str, Build] = {label: partial(_same, step) for label, step in arms.items()}
    return timed(builds, rounds=options.rounds, repeats=1, threads=options.threads)


def _same(step: Step, _: ExitStack) -> Step:
    return step


def made_session(folder: str, options: Namespace) -> Session:
    """A session of plain training on random images, which it crops and flips."""
    run = RunSettings(
        out=folder,
        epochs=options.rounds + 1,
        batch_size=options.batch_size,
        device="cpu",
        tensorboard=False,  # it is written to after an epoch
    )
    parts = {
        "data": DataSettings(augment="crop_flip"),
        "model": ModelSettings(options.model),
        "method": MethodSettings("standard"),
    }
    images = _images(options.steps * options.batch_size)
    with patch("advreg.training.builders.build_data", return_value=images):
        return Session(resolve(Configuration(run, **parts)))


def _images(count: int) -> DataSplits:
    images = torch.randint(0, 256, (count + 10, 3, 32, 32), dtype=torch.uint8)
    data = ImageData(images, torch.arange(len(images)) % 10, tuple(map(str, range(10))))
    train, few = torch.arange(count), torch.arange(count, count + 10)
    return DataSplits(data.select(train), data.select(few), data.select(few), "random")


def _bare_steps(session: Session) -> Step:
    model = copy.deepcopy(session.model).train()
    optimizer = build_optimizer(session.configuration.optimizer, model)
    batches = [session.prepare(batch) for batch in session.loader.epoch(0)]

    def steps() -> None:
        for batch in batches:
            F.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def loop_epoch(session: Session, out: str, stack: ExitStack) -> Step:
    """An epoch of the training loop; the stack closes what it opens."""
    folder = RunFolder(out)
    # The bar is drawn, to nowhere: rich takes this for a terminal.
    stack.enter_context(patch.dict(os.environ, {"FORCE_COLOR": "1", "TERM": "xterm"}))
    steps, epochs = len(session.loader), session.configuration.run.epochs
    records = Records(
        folder, epochs=epochs, first_epoch=0, steps_per_epoch=steps, tensorboard=False, quiet=False
    )
    records.bar.console.file = io.StringIO()
    stack.enter_context(records)
    interrupts = stack.enter_context(Interrupts())

    def epoch() -> None:
        train_epoch(session, folder, records, interrupts)
        session.tally.next_epoch()

    return epoch
