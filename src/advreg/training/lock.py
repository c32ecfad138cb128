"""One process at a time in a run folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType

from advreg.errors import InUseError, RunError
from advreg.files import writing

try:
    import fcntl
except ImportError:  # not a POSIX system: a second process goes unseen there
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Holds a folder for as long as the process lives; a context.

    The operating system gives it up when its owner ends, however that happens. The file `.lock`
    in the folder says who the owner is, and goes away with it.

    Args:
        folder: The folder.

    Raises:
        InUseError: On entering: another process, or another run of this one, holds it.
        RunError: On entering: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Lock:
        with writing(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            while not self.held:
                self._release()  # its owner removed the file in the moment that we opened it
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                self._take(self._descriptor)
            try:
                self._sign()
            except OSError:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.held:
            self.path.unlink(missing_ok=True)
        self._release()

    def check(self) -> None:
        """Makes sure that the folder is still the one that was locked.

        Raises:
            RunError: It was removed or replaced since.
        """
        if not self.held:
            raise RunError(
                f"{self.folder} was removed or replaced while the run in it went on, and nothing"
                " more was written; put it back and go on with --resume."
            )

    def _sign(self) -> None:
        assert self._descriptor is not None
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def _take(self, descriptor: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 200).decode(errors="replace") or "another process"
            self._release()
            raise InUseError(
                f"{self.folder} is in use by {owner}; wait for it, end it, or name another folder"
                " with --out."
            ) from None

    @property
    def held(self) -> bool:
        """Whether what is open is what lies in the folder."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except OSError:
            return False

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
