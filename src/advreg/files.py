"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


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
