"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from advreg.errors import RunError


def check_folder(path: Path) -> None:
    """Refuses a folder that could not be made or written to, before work is done for it.

    Raises:
        RunError: A file is in its way, or it is not allowed.
    """
    present = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not present.is_dir():
        raise RunError(f"{present} is a file; name a folder with --out.")
    if not os.access(present, os.W_OK):
        raise RunError(f"{present} cannot be written to; name another folder with --out.")


def check_results(path: Path, name: str, overwrite: bool) -> None:
    """As `check_folder`, for results that go to the file `name` in it.

    Raises:
        RunError: It holds such results, and they are not to be replaced.
    """
    check_folder(path)
    if (path / name).exists() and not overwrite:
        raise RunError(
            f"{path} holds results already; name another folder with --out, or replace them with"
            " --overwrite true."
        )


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name and then moves it into place.

    Args:
        path: The file; what is there stays whole until the new one is.
        write: Writes to the path that it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays likewise, as a compressed `.npz`."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # of a path, numpy would change the ending
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    replace_file(path, write)
