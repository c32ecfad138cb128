"""Files that are whole or not there, whatever stops the process or the machine."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import numpy as np

from advreg.errors import RunError
from advreg.shortage import all_memory

_MENDS = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "allow larger files",
    errno.ENOENT: "put the folder back",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EISDIR: "move the folder of that name away",
    errno.ENOTDIR: "move the file in its way",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system has against a file or folder into one sentence.

    Raises:
        RunError: The disk is full, writing is not allowed, the folder is gone, and so on.
    """
    try:
        yield
    except OSError as error:
        mend = _MENDS.get(error.errno or 0, "allow writing there, or name another folder")
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}); {mend}. What was saved before"
            " is kept."
        ) from error


def as_argument(path: str | os.PathLike[str]) -> str:
    """A path as it is typed after a command: `./-name` for `-name`, which would be an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def check_folder(path: Path) -> None:
    """Refuses a folder that could not be made or written to, before work is done for it.

    Raises:
        RunError: A file is in its way, its name is too long, or it is not allowed.
    """
    with writing(path):
        present = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not present.is_dir():
        raise RunError(f"{present} is a file; name a folder with --out.")
    if not os.access(present, os.W_OK):
        raise RunError(f"{present} cannot be written to; name another folder with --out.")
    try:  # a superuser is allowed everything, whether it works or not
        with TemporaryFile(dir=present):
            pass
    except OSError as error:
        raise RunError(
            f"{present} cannot be written to ({error.strerror or error}); name another folder with"
            " --out."
        ) from error


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
    """Writes a file under another name, flushes it to the disk, and moves it into place.

    What processes of this machine left behind when they were killed in doing so is removed.

    Args:
        path: The file; what is there stays whole until the new one is.
        write: Writes to the path that it is given.

    Raises:
        RunError: The operating system refuses; the message says why.
    """
    with writing(path):
        remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")
        try:
            write(temporary)
            flush(temporary)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # of two errors the first one says more
                temporary.unlink(missing_ok=True)
        flush(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Writes text likewise, in UTF-8.

    What is no character, as in a name that the operating system gave in another encoding, is
    escaped.
    """
    replace_file(path, lambda name: name.write_text(text, "utf-8", "backslashreplace"))


def replace_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays likewise, as a compressed `.npz`."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # of a path, numpy would change the ending
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    replace_file(path, write)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file; none may hold Python objects.

    Raises:
        FileNotFoundError: There is none.
        MemoryError: The arrays do not fit.
        ValueError: It is damaged, or no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            # A small file may unpack to more than there is, and take the whole machine with it.
            if sum(member.file_size for member in file.zip.infolist()) > all_memory():
                raise MemoryError
            arrays = {name: file[name] for name in file.files}
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # numpy, zipfile and zlib raise of every kind for a broken file
        raise ValueError(f"{path} is damaged, or no .npz file") from error
    # Of what is no .npy file NumPy gives the bytes.
    if odd := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{odd[0]} in {path} is no array")
    return arrays


def load_array(path: Path, mode: Literal["r", "c"] | None) -> np.ndarray:
    """Opens the array of an `.npy` file, which may not hold Python objects.

    Args:
        path: The file.
        mode: How it is mapped into memory, as of `numpy.memmap`; None reads it.

    Raises:
        OSError: It cannot be opened.
        MemoryError: It does not fit, or a damaged header says so.
        ValueError: It is damaged, or no such file.
    """
    try:
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no .npy file") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is no .npy file")
    return array


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk and not only on its way."""
    if path.is_dir() and os.name != "posix":  # only there can a folder be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems have nothing to flush a folder to
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path, everybodys: bool = False) -> None:
    """Removes the temporary files of a file whose writers were killed.

    Args:
        path: The file.
        everybodys: Also those of processes that may be alive, or on other machines; for a file
            that nobody else writes.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(.+)\.(\d+)\.tmp")
    for found in os.listdir(path.parent):
        match = pattern.fullmatch(found)
        if match and (everybodys or (match[1] == _host() and not _is_alive(int(match[2])))):
            (path.parent / found).unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", socket.gethostname())[:60] or "here"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True
