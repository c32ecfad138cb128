"""Stopping at a step's end, where everything is consistent and can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run was stopped and saved; the message says how to go on."""


SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGUSR1"):
    SIGNALS.append(signal.SIGUSR1)


class Interrupts:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one stops at once.

    So does SIGUSR1, which batch systems send as a warning before a job's time is up.

    Outside the main thread, where signals cannot be handled, nothing is changed.

    Attributes:
        requested: Whether somebody asked the run to stop.
    """

    def __init__(self) -> None:
        self.requested = False
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

    def request(self) -> None:
        """Asks the run to stop at the step's end."""
        self.requested = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)
