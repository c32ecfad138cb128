"""Pieces of work handed to processes, of which one that dies takes no other piece along."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import torch

from advreg.errors import ConfigurationError
from advreg.training.interrupts import HANGUP, stop_signals

TICK = 1.0
"""Seconds between two calls of `tick`."""

GRACE = 5.0
"""Seconds that work under way has for saving."""

IMPORTS = ["advreg.study.execution", "lightning_fabric", "torch._dynamo"]
"""What a run imports."""


@dataclass(frozen=True)
class Ended:
    """What a piece of work came to.

    Attributes:
        value: What it returned.
        reason: Why it failed, in one line; None where it did not.
        interrupted: Whether it was stopped before its end.
    """

    value: Any = None
    reason: str | None = None
    interrupted: bool = False


Work = Callable[[Any], Any]
"""Does one piece; importable by name, for it is called in another process."""


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_pool(
    items: Sequence[Any],
    work: Work,
    workers: int | None = None,
    *,
    ended: Callable[[int, Ended], object] = lambda index, found: None,
    tick: Callable[[Sequence[int]], object] = lambda under_way: None,
    environments: Sequence[Mapping[str, str]] = ({},),
    until: float = math.inf,
) -> tuple[list[Ended | None], bool]:
    """Does pieces of work in fresh processes of one torch thread each.

    What fails, or takes its process down with it, loses no other piece. On one of the
    `stop_signals` no further piece is begun and those under way are asked to stop; a second one
    ends them at once.

    Args:
        items: What is handed to `work`, one at a time, in this order.
        work: Does one piece.
        workers: Number of processes; None is one a core.
        ended: Called with each piece's index and what it came to.
        tick: Called every second with the indices of those under way.
        environments: Environment variables of the workers, in turn.
        until: When, by `time.monotonic`, those under way are asked to stop; `GRACE` seconds later
            they are ended.

    Returns:
        What each piece came to, None for one that was not begun or was ended; and whether it was
        interrupted.

    Raises:
        ConfigurationError: There would be no worker.
    """
    if workers is not None and workers < 1:
        raise ConfigurationError(f"workers is {workers}; give a whole number of at least 1.")
    number = min(workers or available_cores(), len(items))
    crew = [_Worker(work, environments[index % len(environments)]) for index in range(number)]
    found: list[Ended | None] = [None] * len(items)
    waiting = deque(range(len(items)))
    stops = False
    with requests_to_stop() as asked:
        try:
            while waiting or any(worker.busy for worker in crew):
                if len(asked) > 1 or time.monotonic() > until + GRACE:
                    break
                if not stops and (asked or time.monotonic() > until):
                    stops = True
                    waiting.clear()
                    for worker in crew:
                        worker.ask_to_stop()
                _hand_out(crew, items, waiting)
                for index, outcome in _returned(crew):
                    found[index] = outcome
                    ended(index, outcome)
                tick([worker.index for worker in crew if worker.index is not None])
        finally:
            for worker in crew:
                worker.end()
    return found, bool(asked)


def _hand_out(crew: list[_Worker], items: Sequence[Any], waiting: deque[int]) -> None:
    for worker in crew:
        if waiting and not worker.busy:
            index = waiting.popleft()
            worker.begin(index, items[index])


def _returned(crew: list[_Worker]) -> Iterator[tuple[int, Ended]]:
    """Waits a moment, and gives back what has ended meanwhile."""
    busy = {worker.connection: worker for worker in crew if worker.busy}
    for connection in wait(list(busy), TICK):
        worker = busy[connection]  # type: ignore[index]
        index = worker.index
        assert index is not None
        yield index, worker.take()


def context() -> Any:
    """How processes begin: afresh, for a fork of a process that has used threads may hang.

    On Linux they are forks of one that has imported what they need and done nothing else, which
    saves each of them seconds of imports, and the memory of all but one. Not where there is a GPU:
    an import that asks for it would settle which one all of them have.
    """
    if sys.platform != "linux" or torch.accelerator.is_available():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(IMPORTS)
    return found


class _Worker:
    """One process, begun when there is work for it, and again after it died."""

    def __init__(self, work: Work, environment: Mapping[str, str]) -> None:
        self.work = work
        self.environment = dict(environment)
        self.index: int | None = None
        self.stopping = False
        self.process: Any = None
        self.connection: Connection

    @property
    def busy(self) -> bool:
        return self.index is not None

    def begin(self, index: int, item: Any) -> None:
        if self.process is None or not self.process.is_alive():
            processes = context()
            self.connection, theirs = processes.Pipe()
            arguments = (theirs, self.work, {**os.environ, **self.environment})
            self.process = processes.Process(target=_serve, args=arguments, daemon=False)
            self.process.start()
            theirs.close()
        self.index = index
        self.connection.send((item,))

    def take(self) -> Ended:
        try:
            outcome: Ended = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.index = None
            if self.stopping:
                return Ended(interrupted=True)
            code = self.process.exitcode
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            hint = "; the system may have run out of memory" if code == -9 else ""
            outcome = Ended(reason=f"Its process was ended {how}{hint}.")
            self.process = None
        self.index = None
        return outcome

    def ask_to_stop(self) -> None:
        if self.busy and self.process.is_alive():
            self.stopping = True
            self.process.terminate()

    def end(self) -> None:
        if self.process is None:
            return
        if self.busy:
            self.process.kill()
        else:
            with suppress(OSError):  # it has ended already
                self.connection.send(())
        self.connection.close()
        self.process.join()


@contextmanager
def requests_to_stop() -> Iterator[list[int]]:
    """Collects requests to stop instead of being stopped, where signals can be handled."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number != HANGUP or not asked:
            asked.append(number)

    here = threading.current_thread() is threading.main_thread()
    numbers = stop_signals() if here else []
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_patient = False


@contextmanager
def stops_by_itself() -> Iterator[None]:
    """In a worker: work that answers a request to stop at its own time, after saving."""
    global _patient
    _patient = True
    try:
        yield
    finally:
        _patient = False


def _serve(connection: Connection, work: Work, environment: dict[str, str]) -> None:
    """A worker's life: does what comes until nothing can come any more."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)

    def stop(number: int, frame: FrameType | None) -> None:
        if not _patient:
            raise KeyboardInterrupt

    # A terminal sends Ctrl-C to every process: the parent alone decides what is kept.
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else stop)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        while given := connection.recv():
            connection.send(_attempt(work, *given))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _attempt(work: Work, item: Any) -> Ended:
    try:
        return Ended(work(item))
    except KeyboardInterrupt:
        return Ended(interrupted=True)
    except Exception as error:  # whatever it is, the other pieces go on
        return Ended(reason=" ".join(f"{type(error).__name__}: {error}".split()))


def _leave_with_parent() -> None:
    """Ends a worker whose parent was killed, also in the midst of its work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
