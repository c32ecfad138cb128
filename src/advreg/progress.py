"""How much of some work is done, how long the rest takes, and the one bar that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from advreg.extras import needs

if TYPE_CHECKING:  # takes a tenth of a second to import
    from rich.console import Console

LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


@dataclass(frozen=True)
class Progress:
    """The state of some work after a piece of it.

    Attributes:
        done: Work that is done, in a unit of the work's own.
        total: All work.
        text: What is being done.
        seconds_left: At the speed so far; None before anything was measured.
    """

    done: float
    total: float
    text: str
    seconds_left: float | None

    def __str__(self) -> str:
        share = f"{self.done / self.total:.0%}" if self.total else "0%"
        return (
            share if self.seconds_left is None else f"{share}, {duration(self.seconds_left)} left"
        )


class Clock:
    """Counts work and estimates the time that the rest takes.

    Args:
        report: Called after each piece, if given.
    """

    def __init__(self, report: Callable[[Progress], object] | None = None) -> None:
        self.report = report
        self.total = 0.0
        self.done = 0.0
        self.measured = 0.0
        self.began = time.perf_counter()

    def expect(self, work: float) -> None:
        """Adds work to come; less than zero takes back what turned out not to be needed."""
        self.total += work

    def did(self, work: float, text: str, measured: bool = True) -> None:
        """Work is done, here and now, or `measured` False, in an earlier session."""
        self.done += work
        if measured:
            self.measured += work
        if self.report is not None:
            elapsed = time.perf_counter() - self.began
            speed = self.measured / elapsed if elapsed > 0 else 0.0
            left = max(self.total - self.done, 0.0)
            self.report(Progress(self.done, self.total, text, left / speed if speed else None))

    def at(self, done: float, total: float, text: str) -> None:
        """So much of all work is done now."""
        self.total = total
        self.did(done - self.done, text)


class ProgressBar:
    """A bar on a terminal, a line now and then elsewhere, nothing on a quiet console.

    Call it with a `Progress`, as a `Clock` does.

    Args:
        console: Where to; a new one by default.
        text: What is being done, shown until the first report.
    """

    def __init__(self, console: Console | None = None, text: str = "") -> None:
        with needs("cli", "a progress bar"):
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

        self.console = console or Console(highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=self.console,
            transient=True,
            refresh_per_second=2,  # ten, the default, take one per cent of a core
            disable=self.console.quiet or not self.console.is_terminal,
        )
        self._task = self._bar.add_task(text, total=None, state="")
        self._last_line = time.monotonic()

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Shows how far the work is."""
        if not self._bar.disable:
            done, total = progress.done, progress.total
            self._bar.update(
                self._task,
                completed=done,
                total=total,
                description=progress.text,
                state=str(progress),
            )
        elif time.monotonic() - self._last_line > LINE_EVERY:
            self.print(f"{progress.text}: {progress}")

    def print(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._last_line = time.monotonic()


def duration(seconds: float) -> str:
    """A time as people say it: 42 s, 7 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
