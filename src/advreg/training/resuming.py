"""Going on with a run from one of its checkpoints, and from no other run's."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from advreg.errors import DamagedCheckpointWarning, RunError, StateError
from advreg.files import writing
from advreg.training.folder import RunFolder
from advreg.training.identity import changes
from advreg.training.loading import check_fingerprint, fitting
from advreg.training.session import Session
from advreg.training.tally import Tally


def restore(session: Session, folder: RunFolder, path: Path, state: dict[str, Any]) -> None:
    """Takes a checkpoint that belongs to the session's run.

    Raises:
        StateError: It is another run's, or lacks a part.
        RunError: The data have changed.
    """
    if state["identity"] is not None:
        before, now = state["identity"]["settings"], session.identity["settings"]
        if differing := changes(before, now):
            raise StateError(
                f"{path} is of another run ({differing}); put the right one back, or name another"
                " folder with --out."
            )
        check_fingerprint(folder.path, state, session.identity["data"])
    fitting(path, lambda: session.load_state_dict(state))
    if session.team.first:
        settle_files(session, folder, path)


def settle_files(session: Session, folder: RunFolder, path: Path) -> None:
    """Makes the checkpoint that was taken the last one."""
    if path != folder.last:  # what is newer is damaged, and must not take its place
        with writing(folder.last):
            os.replace(path, folder.last)
    if folder.configuration().data.name != session.configuration.data.name:
        folder.create(session.configuration)  # the data have moved
    check_best(session.tally, folder)


def check_best(tally: Tally, folder: RunFolder) -> None:
    """Where `best.pt` cannot be read any more, the best of the epochs to come replaces it."""
    if not tally.best_epoch:
        return
    try:
        folder.load(folder.best)
    except RunError as error:
        message = f"{error} The best of the epochs to come takes its place."
        warnings.warn(message, DamagedCheckpointWarning, stacklevel=2)
        tally.best_epoch, tally.best_score, tally.best_accuracy = 0, -1.0, -1.0
