"""Checkpoints: torch's own files of plain values and tensors, with a checksum at their end."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from advreg.errors import RunError, StateError

FORMAT = 2
"""Of the checkpoints that are written. 1 had neither a checksum nor an identity."""

_MARK = b"sha256:"
_LENGTH = len(_MARK) + 64
"""Of the checksum; torch reads over it, so that `torch.load` takes the file as it is."""


def write_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Writes a checkpoint.

    Args:
        path: The file.
        contents: Plain values and tensors.

    Raises:
        OSError: The operating system refuses.
    """
    with path.open("wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save({"format": FORMAT, **contents}, hashed)  # type: ignore[arg-type]
        except RuntimeError as error:  # torch's own, on closing a file that is not whole
            raise hashed.error or error from None
        file.write(_MARK + hashed.digest.hexdigest().encode())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; what an older advreg wrote is brought to today's form.

    Nothing in the file is run: only tensors and plain values are read.

    Raises:
        RunError: It is missing or damaged.
        StateError: It is whole, and no checkpoint, or a newer advreg's.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; train the run to its first epoch.") from None
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from None
    checked = data[-_LENGTH:].startswith(_MARK)
    if checked and hashlib.sha256(data[:-_LENGTH]).hexdigest().encode() != data[-64:]:
        raise _damaged(path, "its checksum is another")
    try:
        contents = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's reason is advice on trusting the file
        raise _damaged(path, "it holds more than tensors and plain values, or is cut") from None
    except Exception as error:  # a broken or hostile file makes the reader raise of every kind
        raise _damaged(path, " ".join(str(error).split())[:200]) from None
    found = contents.get("format") if isinstance(contents, dict) else None
    if not isinstance(found, int) or not {"architecture", "model"} <= contents.keys():
        raise StateError(f"{path} is no checkpoint of advreg; put the run's own back.")
    if found > FORMAT:
        raise StateError(
            f"{path} has format {found}, and this advreg reads up to {FORMAT}; update advreg."
        )
    if found == FORMAT and not checked:
        raise _damaged(path, "its checksum is missing")
    for version in range(found, FORMAT):
        if version not in _MIGRATIONS:
            raise StateError(f"{path} has format {found}, too old to read; train the run again.")
        contents = _MIGRATIONS[version](contents)
    if not _is_identity(contents.get("identity", "")):
        raise StateError(f"{path} says of no run that it is its; put the run's own back.")
    return contents


def _is_identity(value: Any) -> bool:
    """Whether it is None, as of a format before there were any, or plain settings and hashes."""
    if value is None:
        return True
    parts = value.values() if isinstance(value, dict) else ()
    if set(value if parts else ()) != {"settings", "data"}:
        return False
    return all(isinstance(part, dict) and _is_plain(part) for part in parts)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))


def _from_1(contents: dict[str, Any]) -> dict[str, Any]:
    return {**contents, "format": 2, "identity": None}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""By the format that each brings to the next one."""


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(f"{path} is damaged ({reason}); put a good copy back, or train the run again.")


class _Hashed:
    """A file that is summed up while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
