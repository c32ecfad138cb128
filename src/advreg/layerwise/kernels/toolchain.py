"""Compiling C++ on first use, and keeping it for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_PATIENCE = 120
"""Seconds for the compiler."""
_COMPILERS = ("c++", "g++", "clang++")
_WRITABLE_BY_OTHERS = 0o022


def load(source: Path) -> ctypes.CDLL:
    """A source file's shared library, compiled unless an earlier process has done so.

    Args:
        source: A file that may use torch's headers.

    Raises:
        OSError: There is no compiler, or the library cannot be kept or loaded.
        subprocess.SubprocessError: The compiler failed.
    """
    command = _command(source)
    about = [source.read_text(encoding="utf-8"), *command, torch.__version__, _processor()]
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
    with _folder() as folder:
        target = folder / f"{source.stem}-{digest}.so"
        if not (target.is_file() and _ours_alone(target)):
            _compile(command, target)
        return ctypes.CDLL(str(target))


def reason(error: Exception) -> str:
    """Why `load` failed, in a few words."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return lines[0] if lines else f"exit code {error.returncode}"
    return str(error)


def mend(error: Exception) -> str:
    """What to do after `load` failed, and why it did."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the compiler took more than {_PATIENCE} s, so start again on a less busy machine"
    return f"install a C++ compiler such as g++ ({reason(error)})"


def _compile(command: list[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        made = Path(work) / target.name
        subprocess.run(
            [*command, "-o", str(made)], check=True, capture_output=True, timeout=_PATIENCE
        )
        made.chmod(0o700)
        os.replace(made, target)


def _command(source: Path) -> list[str]:
    if os.name != "posix":
        raise FileNotFoundError(f"not yet done on {platform.system()}")
    told = os.environ.get("CXX", "")
    try:
        compiler = shlex.split(told) or [*filter(None, map(shutil.which, _COMPILERS))][:1]
    except ValueError as error:
        raise FileNotFoundError(f"CXX is {told!r}: {error}") from error
    if not compiler:
        raise FileNotFoundError("none was found")
    torch_home = Path(torch.__file__).parent
    libraries = torch_home / "lib"
    # A second OpenMP runtime beside torch's own would fight it for the cores.
    openmp = [str(path) for path in sorted(libraries.glob("libgomp*.so*"))[:1]]
    return [
        *(*compiler, "-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
        *(str(source), f"-I{torch_home / 'include'}", "-Wl,--as-needed", *openmp),
        *(f"-L{libraries}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}"),
    ]


@contextmanager
def _folder() -> Iterator[Path]:
    """The user's cache; without one that no other user can write to, a folder for this once.

    What lies there is loaded and run.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "advreg"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = _ours_alone(folder) and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # a user without a home
        kept = False
    if kept:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="advreg-") as work:
        yield Path(work)


def _ours_alone(path: Path) -> bool:
    about = path.stat()
    return about.st_uid == os.getuid() and not about.st_mode & _WRITABLE_BY_OTHERS


def _processor() -> str:
    """What `-march=native` depends on, for a home that several machines share."""
    described = Path("/proc/cpuinfo")
    if not described.is_file():
        return platform.processor()
    lines = described.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
