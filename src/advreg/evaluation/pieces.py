"""Finished pieces of an evaluation, kept in a file so that a kill costs one piece at most."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from advreg.errors import RunError
from advreg.files import replace_arrays


class Piece(NamedTuple):
    """What was measured of one batch.

    Attributes:
        values: (B,) or (B, columns).
        seconds: What it took.
        passes: Forward passes that gradients were taken through, times examples.
        queries: Forward passes without, times examples.
    """

    values: np.ndarray
    seconds: float
    passes: int
    queries: int


class Pieces:
    """The pieces that are done, by name; a context that saves them on leaving.

    Args:
        settings: Everything that the pieces depend on, ready for JSON.
        path: The file; None keeps them in memory alone.
        fresh: Whether to start afresh where the file exists.
        every: Seconds between two writes, at least; a kill loses no more than these.

    Raises:
        RunError: The file holds pieces made under other settings, or is damaged.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        path: Path | None = None,
        *,
        fresh: bool = False,
        every: float = 5.0,
    ) -> None:
        self.settings = json.loads(json.dumps(settings))
        self.path = path
        self.every = every
        self.saved = time.monotonic()
        self.done: dict[str, Piece] = {}
        if path is not None and path.exists() and not fresh:
            self.done = self._load(path)

    def __enter__(self) -> Pieces:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.save()

    def put(self, name: str, piece: Piece) -> None:
        """Keeps a piece, and writes all of them now and then."""
        self.done[name] = piece
        if time.monotonic() - self.saved >= self.every:
            self.save()

    @property
    def seconds(self) -> float:
        """What all pieces took, in this session and before it."""
        return sum(piece.seconds for piece in self.done.values())

    def save(self) -> None:
        """Writes all pieces; the file is whole at every moment."""
        if self.path is None or not self.done:
            return
        index = [[name, *piece[1:]] for name, piece in self.done.items()]
        about = json.dumps({"settings": self.settings, "pieces": index})
        values: dict[str, Any] = {
            str(place): piece.values for place, piece in enumerate(self.done.values())
        }
        replace_arrays(self.path, {"about": np.array(about), **values})
        self.saved = time.monotonic()

    def remove(self) -> None:
        """Deletes the file once the results are elsewhere."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _load(self, path: Path) -> dict[str, Piece]:
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                done = {
                    name: Piece(file[str(place)], *rest)
                    for place, (name, *rest) in enumerate(about["pieces"])
                }
                before = about["settings"]
        except Exception:  # numpy, zipfile, zlib and json raise of every kind for a broken file
            raise RunError(
                f"{path} is damaged; start the evaluation afresh with --fresh."
            ) from None
        changed = [
            name
            for name in sorted(before.keys() | self.settings.keys())
            if before.get(name) != self.settings.get(name)
        ]
        if changed:
            raise RunError(
                f"{path} holds an unfinished evaluation with another {', '.join(changed)};"
                " repeat its settings to go on with it, or start afresh with --fresh."
            )
        return done
