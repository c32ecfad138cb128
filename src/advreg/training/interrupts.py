"""Stopping at a step's end, where everything is consistent and can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from advreg.errors import OutputError


class Interrupted(KeyboardInterrupt):
    """The run was stopped and saved; the message says how to go on.

    Attributes:
        code: The exit code of a program that ends with it.
    """

    code = 130


SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGUSR1"):
    SIGNALS.append(signal.SIGUSR1)


class Interrupts:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one stops at once.

    So does SIGUSR1, which batch systems send as a warning before a job's time is up.

    Outside the main thread, where signals cannot be handled, nothing is changed.

    Attributes:
        requested: Whether somebody asked the run to stop.
        unwritten: Why the run itself did, where its output could not be written.
    """

    def __init__(self) -> None:
        self.requested = False
        self.unwritten: OutputError | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def request(self, unwritten: OutputError) -> None:
        """Asks the run to stop at the step's end, since nobody could see how it goes on."""
        self.requested, self.unwritten = True, self.unwritten or unwritten

    def stopped(self, saved: str) -> Interrupted:
        """What to raise then, from what was saved and how to go on."""
        if self.unwritten is None:
            return Interrupted(f"Interrupted; {saved}")
        error = Interrupted(f"{self.unwritten.fault}; {saved}")
        error.code = self.unwritten.code
        return error

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)
