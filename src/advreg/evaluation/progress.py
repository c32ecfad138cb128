"""How far an evaluation is and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Told after each piece.

    Attributes:
        done: Work that is done, in about the time of one forward pass of one example.
        total: All work.
        text: What was done last.
        seconds_left: At the speed so far; None before anything was measured.
    """

    done: float
    total: float
    text: str
    seconds_left: float | None


class Clock:
    """Counts work and tells of it.

    Args:
        report: Called after each piece, if given.
    """

    def __init__(self, report: Callable[[Progress], None] | None = None) -> None:
        self.report = report
        self.total = 0.0
        self.done = 0.0
        self.measured = 0.0
        self.began = time.perf_counter()

    def expect(self, work: float) -> None:
        """Adds work to come; less than zero takes back what turned out not to be needed."""
        self.total += work

    def did(self, work: float, text: str, measured: bool) -> None:
        """Work is done, here and now, or `measured` False, in an earlier session."""
        self.done += work
        if measured:
            self.measured += work
        if self.report is not None:
            elapsed = time.perf_counter() - self.began
            speed = self.measured / elapsed if elapsed > 0 else 0.0
            left = max(self.total - self.done, 0.0)
            self.report(Progress(self.done, self.total, text, left / speed if speed else None))
