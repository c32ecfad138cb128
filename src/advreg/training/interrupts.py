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


HANGUP = getattr(signal, "SIGHUP", None)
"""Sent when the terminal or the connection is gone, often twice: by the shell and the system."""


def stop_signals() -> list[signal.Signals]:
    """What asks to stop: Ctrl-C, what batch systems send before they end a job, and a hangup.

    Not a hangup that is ignored already, as `nohup` has it.
    """
    names = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")  # the last two are not on Windows
    found = [signal.Signals[name] for name in names if hasattr(signal, name)]
    return [n for n in found if n != HANGUP or signal.getsignal(n) != signal.SIG_IGN]


class Interrupts:
    """Turns the first of the `stop_signals` into a request; a second one stops at once.

    Further hangups do nothing: they say no more than the first.

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
            for number in stop_signals():
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
        if number == HANGUP:
            signal.signal(number, signal.SIG_IGN)
        else:
            self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)
