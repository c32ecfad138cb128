"""What the program says: on standard output, which may be full or closed, and on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from advreg.errors import OutputError


class Output:
    """Standard output that raises an `OutputError` where it cannot be written.

    An OSError would say nothing of where it is from, rich ends the program for a closed pipe, and
    argparse keeps silent. After the first failure all goes to the null device, so that what the
    interpreter still holds at its exit does no harm.

    Attributes:
        failure: The first one.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: OutputError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Writes text, now or when the buffer is full."""
        return self._try(lambda: self.stream.write(text))

    def flush(self) -> None:
        """Writes what the buffer holds."""
        self._try(self.stream.flush)

    def finish(self) -> None:
        """Writes what is left.

        Raises:
            OutputError: It cannot be written, or something before it could not.
        """
        self.flush()
        if self.failure is not None:
            raise self.failure

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError as error:
            self.failure = self.failure or OutputError(error)
            with suppress(OSError, ValueError):  # no file stands behind a notebook's
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
            raise self.failure from None


@contextmanager
def guarded_output() -> Iterator[Output]:
    """Puts an `Output` in the place of standard output."""
    before = sys.stdout
    output = Output(before)
    sys.stdout = output
    try:
        yield output
    finally:
        sys.stdout = before
        with suppress(OutputError):
            output.flush()


def say(sentence: object) -> None:
    """Writes a line to stderr, where that can be written."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"advreg: {sentence}", file=sys.stderr)
