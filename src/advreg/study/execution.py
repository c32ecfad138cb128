"""One run of a study, from nothing or from where a kill left it, to its row."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from advreg.errors import CollapseWarning, InUseError
from advreg.study.files import write_json
from advreg.study.measuring import images_of, measure, pieces_of
from advreg.study.pool import stops_by_itself
from advreg.study.runs import StudyRun
from advreg.training import train
from advreg.training.builders import choose_device
from advreg.training.loading import last_network
from advreg.training.lock import Lock

ROW = "row.json"
FAILURE = "failure.json"
BUSY = "busy"
DONE = "done"
FAILED = "failed"
SKIPPED = "skipped"


def execute(run: StudyRun, out: Path) -> str:
    """Does what is left of a run, unless it is done or another process is at work on it.

    The claim is the lock of the run's folder, which the operating system gives up when its owner
    ends, however that happens. An error is kept in the folder, and the next call tries again.

    Args:
        run: The run.
        out: The study's folder.

    Returns:
        done, skipped (it was done before), failed or busy.

    Raises:
        KeyboardInterrupt: It was asked to stop; what was trained is saved.
        RunError: The run's folder cannot be written to.
    """
    folder = run.folder(out)
    if (folder / ROW).exists():
        return SKIPPED
    lock = Lock(folder)
    try:
        lock.__enter__()
    except InUseError:
        return BUSY
    try:
        if (folder / ROW).exists():
            return SKIPPED
        (folder / FAILURE).unlink(missing_ok=True)
        row = _finish(run, folder)
        write_json(folder / ROW, row)
        (folder / "measured.npz").unlink(missing_ok=True)
        return DONE
    except Exception as error:  # whatever it is, the study goes on
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        write_failure(folder, reason)
        return FAILED
    finally:
        lock.__exit__(None, None, None)


def is_free(run: StudyRun, out: Path) -> bool:
    """Whether no process is at work on a run, or it is done."""
    folder = run.folder(out)
    if (folder / ROW).exists():
        return True
    try:
        with Lock(folder):
            return True
    except InUseError:
        return False


def _finish(run: StudyRun, folder: Path) -> dict[str, Any]:
    """Trains the rest and measures the rest; every figure is that of an undisturbed run."""
    settings = replace(run.configuration.run, out=str(folder / "run"))
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or 1)  # sums depend on their number
    logging.disable(logging.INFO)  # Lightning announces its precision in every run
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # kept in the metrics
            with stops_by_itself():
                configuration = replace(run.configuration, run=settings)
                result = train(configuration, resume=True, quiet=True)
            model = last_network(folder / "run").to(choose_device(settings.device))
            data = run.configuration.data.as_they_are()
            with pieces_of(folder / "measured.npz", run.id) as pieces:
                images = images_of(data, run.evaluation.split)
                figures = measure(model, images, run.evaluation, pieces)
    finally:
        torch.set_num_threads(threads)
        logging.disable(logging.NOTSET)
    lines = result.metrics
    steps = sorted(line["seconds_per_step"] for line in lines)
    return {
        **figures,
        "passes": lines[-1]["passes"],
        "seconds": sum(line["seconds"] for line in lines),
        "step_seconds": steps[len(steps) // 2],
        "epochs": lines,
    }


def write_failure(folder: Path, reason: str) -> None:
    """Keeps why a run failed; where even that cannot be written, its process says so."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILURE, {"reason": reason})


def state(run: StudyRun, out: Path) -> str:
    """How far a run is: done, failed, begun (trained in part, perhaps right now) or planned."""
    folder = run.folder(out)
    for name, what in ((ROW, DONE), (FAILURE, FAILED), ("run", "begun")):
        if (folder / name).exists():
            return what
    return "planned"
