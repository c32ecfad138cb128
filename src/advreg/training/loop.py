"""The training loop."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from advreg.batch import Batch
from advreg.evaluation import accuracy_and_loss
from advreg.training.builders import resolve
from advreg.training.configuration import Configuration
from advreg.training.folder import RunFolder
from advreg.training.interrupts import Interrupted, Interrupts
from advreg.training.records import Records
from advreg.training.session import Session

EVALUATION_BATCH = 500
"""Examples at a time when validating."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run left behind.

    Attributes:
        folder: The run folder; `load_run` reads the network from it.
        metrics: One mapping an epoch, as in `metrics.jsonl`.
        best_epoch: The epoch of `best.pt`, from 1.
        best_accuracy: Its validation accuracy in [0, 1].
    """

    folder: Path
    metrics: list[dict[str, Any]]
    best_epoch: int
    best_accuracy: float


def train(
    configuration: Configuration, *, resume: bool = False, quiet: bool = False
) -> TrainingResult:
    """Trains a network and writes everything about it into a run folder.

    Everything is checked before the folder is made. On the CPU a run that was interrupted
    anywhere and resumed equals one that was not, to the bit. Sets torch's global random state,
    and its threads and determinism where the configuration names them.

    Args:
        configuration: What to train, on what, how.
        resume: Go on with the run in the folder; where there is none, start it.
        quiet: Print nothing.

    Raises:
        AdvregError: The configuration, the data or the folder cannot work, or the training
            diverged.
        Interrupted: Ctrl-C or SIGTERM; the run was saved and can be resumed.
    """
    configuration = resolve(configuration)
    run, folder = configuration.run, RunFolder(configuration.run.out)
    resume = resume and folder.config.is_file()
    if resume:
        folder.check_same(configuration)
    else:
        folder.check_free()
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses without
        torch.use_deterministic_algorithms(True)
    session = Session(configuration)
    with session.attached(), Interrupts() as interrupts:
        if not resume:
            folder.create(configuration)
        elif folder.last.is_file():
            session.load_state_dict(folder.load(folder.last))
        folder.cut_metrics(session.tally.epoch)
        with Records(
            folder,
            epochs=run.epochs,
            first_epoch=session.tally.epoch,
            steps_per_epoch=len(session.loader),
            tensorboard=run.tensorboard,
            quiet=quiet,
        ) as records:
            run_epochs(session, folder, records, interrupts)
    tally = session.tally
    return TrainingResult(folder.path, folder.read_metrics(), tally.best_epoch, tally.best_accuracy)


def run_epochs(
    session: Session, folder: RunFolder, records: Records, interrupts: Interrupts
) -> None:
    """The loop itself: epochs, each trained, then validated and saved."""
    run, tally = session.configuration.run, session.tally
    while tally.epoch < run.epochs:
        train_epoch(session, folder, records, interrupts)
        finish_epoch(session, folder, records)
        if tally.epoch < run.epochs:
            stop_if_requested(interrupts, folder)


def train_epoch(
    session: Session, folder: RunFolder, records: Records, interrupts: Interrupts
) -> None:
    """What is left of an epoch: groups of mini-batches, one optimizer step or `replays` each."""
    run, tally = session.configuration.run, session.tally
    batches = session.loader.epoch(tally.epoch, start=tally.step)
    session.model.train()
    began = time.perf_counter() - tally.seconds
    while group := list(islice(batches, run.accumulate)):
        for _ in range(session.method.replays):
            update(session, [session.prepare(batch) for batch in group])
        tally.step += len(group)
        records.step(tally.epoch, tally.step)
        due = run.checkpoint_every and tally.updates % run.checkpoint_every == 0
        if interrupts.requested or due:
            session.check()
            tally.seconds = time.perf_counter() - began
            save_last(session, folder)
        stop_if_requested(interrupts, folder)
    session.check()
    tally.seconds = time.perf_counter() - began


def update(session: Session, group: list[Batch]) -> None:
    """One optimizer step from the mean loss over the examples of a group of mini-batches."""
    examples = sum(map(len, group))
    clip = session.configuration.optimizer.clip
    for batch in group:
        share = len(batch) / examples
        backward = partial(session.backward, share)
        with session.fabric.autocast():
            output = session.method.step(session.trained, batch, session.criterion, backward)
        session.note(output, len(batch))
    if clip is not None:
        session.fabric.clip_gradients(
            session.model, session.optimizer, max_norm=clip, error_if_nonfinite=False
        )
    session.optimizer.step()
    session.optimizer.zero_grad()
    session.schedule.step()
    session.tally.updates += 1
    if session.averaged is not None:
        session.averaged.update_parameters(session.model)


def finish_epoch(session: Session, folder: RunFolder, records: Records) -> None:
    """Validates, writes the epoch's metrics, and saves the best and the last checkpoint."""
    tally, validation = session.tally, session.splits.validation
    accuracy, loss = accuracy_and_loss(
        session.deployed,
        validation,
        EVALUATION_BATCH,
        session.fabric.device,
        criterion=session.criterion,
    )
    record: dict[str, Any] = {
        "epoch": tally.epoch + 1,
        "train_loss": tally.loss / tally.examples,
        "train_accuracy": tally.correct / tally.examples,
        "validation_loss": loss,
        "validation_accuracy": accuracy,
        "learning_rate": session.schedule.get_last_lr()[0],
        "updates": tally.updates,
        "passes": tally.passes,
        "seconds": tally.seconds,
        "seconds_per_step": tally.seconds / tally.steps,
    }
    if session.configuration.run.monitor:
        record |= session.monitor.look(session.deployed, session.warnings)
    if session.warnings:
        record["warnings"] = list(session.warnings)
        session.warnings.clear()
    tally.next_epoch()
    if accuracy > tally.best_accuracy:
        tally.best_accuracy, tally.best_epoch = accuracy, tally.epoch
        save_best(session, folder)
    records.epoch(record)
    save_last(session, folder)
    records.step(tally.epoch, 0)


def save_last(session: Session, folder: RunFolder) -> None:
    """Saves all that resuming needs."""
    contents = {"architecture": session.architecture, **session.state_dict()}
    folder.save(folder.last, contents)


def save_best(session: Session, folder: RunFolder) -> None:
    """Saves the deployed weights alone, and says which they are."""
    contents = {
        "architecture": session.architecture,
        "model": session.deployed.state_dict(),
        "deployed": "trained weights" if session.averaged is None else "averaged weights",
        "epoch": session.tally.best_epoch,
        "validation_accuracy": session.tally.best_accuracy,
    }
    folder.save(folder.best, contents)


def stop_if_requested(interrupts: Interrupts, folder: RunFolder) -> None:
    """Leaves the loop after an interrupt; what there is has been saved."""
    if interrupts.requested:
        raise Interrupted(f"Interrupted; the run is saved. Go on with: {folder.resume_command()}")
