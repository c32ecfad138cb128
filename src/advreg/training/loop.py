"""The training loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from advreg.batch import Batch
from advreg.files import check_folder
from advreg.shortage import enough_memory
from advreg.training.builders import resolve
from advreg.training.configuration import Configuration
from advreg.training.determinism import make_deterministic, refusals_named
from advreg.training.folder import RunFolder
from advreg.training.interrupts import Interrupts
from advreg.training.launch import joined, placed, with_team
from advreg.training.records import Records
from advreg.training.resuming import restore
from advreg.training.session import Session
from advreg.training.team import LostRankError, Team

SMALLER = "lower it, and raise accumulate for the same result."
"""The mend of too little memory."""

KEPT = " The last good checkpoint is kept."


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

    With `devices` above 1, or under torchrun, it is one rank of the run: see docs/distributed.md.

    Args:
        configuration: What to train, on what, how.
        resume: Go on with the run in the folder; where there is none, start it.
        quiet: Print nothing.

    Raises:
        AdvregError: The configuration, the data or the folder cannot work, or the training
            diverged.
        Interrupted: Ctrl-C, SIGTERM or a hangup; the run was saved and can be resumed.
    """
    configuration = resolve(configuration)
    folder = RunFolder(configuration.run.out)
    session, metrics = run_session(Session, configuration, folder, resume=resume, quiet=quiet)
    tally = session.tally
    return TrainingResult(folder.path, metrics, tally.best_epoch, tally.best_accuracy)


def run_session(
    kind: Callable[[Configuration, Team], Session],
    configuration: Configuration,
    folder: RunFolder,
    *,
    resume: bool,
    quiet: bool,
) -> tuple[Session, list[dict[str, Any]]]:
    """Trains what a session holds to its end, in a folder that is this process's meanwhile.

    Args:
        kind: Makes the session, once the folder is checked and torch is set up.
        configuration: Resolved.
        folder: The run's.
        resume: As of `train`.
        quiet: As of `train`.

    Returns:
        The session, and the lines of its epochs.
    """
    team = placed(configuration.run)
    configuration = with_team(configuration, team)
    run = configuration.run
    with ExitStack() as stack:
        if team.first:
            resume = open_folder(folder, configuration, resume, stack)
        else:  # the first rank says the same
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        if run.deterministic:
            make_deterministic()
        session = kind(configuration, team)
        stack.enter_context(session.attached())
        stack.enter_context(joined(team, configuration, resume))
        interrupts = stack.enter_context(Interrupts())
        begin(session, folder, resume, stack)
        records = Records(
            folder,
            epochs=run.epochs,
            first_epoch=session.tally.epoch,
            steps_per_epoch=len(session.loader),
            tensorboard=run.tensorboard and team.first,
            quiet=quiet or not team.first,
            closed=interrupts.request,
            line=session.line,
        )
        with emptied_if_unused(session, folder, resume), records:
            run_epochs(session, folder, records, interrupts)
        session.tally, metrics = team.share((session.tally, folder.read_metrics()))
        return session, metrics


def open_folder(
    folder: RunFolder, configuration: Configuration, resume: bool, stack: ExitStack
) -> bool:
    """Checks the folder; one that is there is this process's until `stack` is left.

    Returns:
        Whether there is a run to go on with.
    """
    check_folder(folder.path)
    if folder.path.is_dir():
        stack.enter_context(folder.lock)
        folder.clean()
    if resume and folder.config.exists():
        folder.check_same(configuration)
        return True
    folder.check_free()
    return False


def begin(session: Session, folder: RunFolder, resume: bool, stack: ExitStack) -> None:
    """Makes the folder of a new run, or brings the session to where an old one was.

    Warns:
        DamagedCheckpointWarning: A checkpoint is damaged, and an older one serves.
        MemoryResetWarning: The run goes on with another number of devices.
    """
    team, found = session.team, None
    if team.first:
        if not folder.lock.held:  # there was no folder
            stack.enter_context(folder.lock)
            folder.check_free()  # another process may have been faster
        found = folder.load_last() if resume else None
        if found is None:
            folder.create(session.configuration)
    found = team.share(found)
    if found is None:
        session.agree()
        save_last(session, folder)  # so that a run without a checkpoint is one that has lost it
    else:
        restore(session, folder, *found)
    if team.first:
        session.started(folder.path, found is not None)
        folder.cut_metrics(session.tally.epoch)


@contextmanager
def emptied_if_unused(session: Session, folder: RunFolder, resume: bool) -> Iterator[None]:
    """Frees the folder of a new run whose first step fails, for another try with other settings.

    Not where a process of the run was lost: the same settings may go on.
    """
    try:
        yield
    except LostRankError:
        raise
    except Exception:
        if folder.lock.held and not resume and session.tally.updates == 0:
            folder.empty()
        raise


def run_epochs(
    session: Session, folder: RunFolder, records: Records, interrupts: Interrupts
) -> None:
    """The loop itself: epochs, each trained, then validated and saved."""
    run, tally = session.configuration.run, session.tally
    while tally.epoch < run.epochs:
        train_epoch(session, folder, records, interrupts)
        finish_epoch(session, folder, records)
        if tally.epoch < run.epochs:
            stop_if_requested(
                session.team.any(interrupts.requested)[0], session, folder, interrupts
            )


def train_epoch(
    session: Session, folder: RunFolder, records: Records, interrupts: Interrupts
) -> None:
    """What is left of an epoch: groups of mini-batches, one optimizer step or `replays` each."""
    run, tally = session.configuration.run, session.tally
    batches = session.loader.epoch(tally.epoch, start=tally.step)
    session.model.train()
    began = time.perf_counter() - tally.seconds
    saved = time.monotonic()
    while group := list(islice(batches, run.accumulate)):
        mend = SMALLER + KEPT if tally.updates else SMALLER
        with enough_memory(f"a step with batch_size {run.batch_size}", mend), refusals_named():
            for _ in range(session.method.replays):
                update(session, [session.prepare(batch) for batch in group])
        tally.step += len(group)
        group.clear()  # before the next ones are made
        records.step(tally.epoch, tally.step)
        due = run.checkpoint_every and tally.updates % run.checkpoint_every == 0
        late = run.checkpoint_minutes and time.monotonic() - saved > 60 * run.checkpoint_minutes
        stop, save = session.team.any(interrupts.requested, due or late)
        if stop or save:
            session.check()
            tally.seconds = time.perf_counter() - began
            save_last(session, folder)
            saved = time.monotonic()
        stop_if_requested(stop, session, folder, interrupts)
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
    session.exchange()
    if clip is not None:
        session.fabric.clip_gradients(
            session.model, session.optimizer, max_norm=clip, error_if_nonfinite=False
        )
    session.optimizer.step()
    session.optimizer.zero_grad()
    session.schedule.step()
    session.tally.updates += 1
    if session.averaged is not None:
        session.averaged.after_step(session.model)


def finish_epoch(session: Session, folder: RunFolder, records: Records) -> None:
    """Validates, writes the epoch's metrics, and saves the best and the last checkpoint."""
    tally = session.tally
    tally.loss, tally.correct, examples = session.team.total(
        tally.loss, tally.correct, tally.examples
    )
    tally.examples, validation = int(examples), None
    if session.team.first:
        validation = keep_epoch(session, folder, records)
    else:
        session.warnings.clear()
        tally.next_epoch()
    validation = session.team.share(validation)
    if validation is not None:
        session.method.validated(validation)
    save_last(session, folder)
    records.step(tally.epoch, 0)


def keep_epoch(session: Session, folder: RunFolder, records: Records) -> float | None:
    """Validates, writes the epoch's metrics and the best checkpoint, and moves on.

    Returns:
        The validation loss; None where nothing is validated.
    """
    tally = session.tally
    if session.averaged is not None:
        inputs = (session.prepare(one).inputs for one in session.loader.each_once(tally.epoch))
        session.averaged.after_epoch(session.model, tally.epoch, inputs)
    record: dict[str, Any] = {
        "epoch": tally.epoch + 1,
        "train_loss": tally.loss / tally.examples,
        **session.figures(),
        **session.site_figures(),
        "learning_rate": session.schedule.get_last_lr()[0],
        "updates": tally.updates,
        "passes": tally.passes,
        "seconds": tally.seconds,
        "seconds_per_step": tally.seconds / tally.steps,
    }
    if session.warnings:
        record["warnings"] = list(session.warnings)
        session.warnings.clear()
    tally.next_epoch()
    if tally.note_if_best(record, session.attacked):
        save_best(session, folder)
    folder.lock.check()
    records.epoch(record)
    return record.get("validation_loss")


def save_last(session: Session, folder: RunFolder) -> None:
    """Saves all that resuming needs, which every rank has a part of."""
    state = session.state_dict()
    if session.team.first:
        folder.lock.check()
        about = {"architecture": session.architecture, "identity": session.identity}
        keep = session.configuration.run.keep_checkpoints
        folder.save_last({**about, **state}, keep)


def save_best(session: Session, folder: RunFolder) -> None:
    """Saves the deployed weights alone, and says which they are."""
    folder.lock.check()
    contents = {
        "architecture": session.architecture,
        "identity": session.identity,
        "model": session.deployed.state_dict(),
        "deployed": "trained weights" if session.deployed is session.model else "averaged weights",
        "epoch": session.tally.best_epoch,
        "validation_accuracy": session.tally.best_accuracy,
    }
    folder.save(folder.best, contents)


def stop_if_requested(
    requested: bool, session: Session, folder: RunFolder, interrupts: Interrupts
) -> None:
    """Leaves the loop after an interrupt; what there is has been saved."""
    if requested:
        command = folder.resume_command() if session.team.first else "the first rank's command"
        raise interrupts.stopped(f"the run is saved. Go on with: {command}")
