"""Running out of memory as a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from advreg.errors import RunError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch says, on a GPU, on Linux and on Windows."""


@contextmanager
def enough_memory(what: str, mend: str) -> Iterator[None]:
    """Turns running out of memory into one sentence.

    Args:
        what: What there is not enough memory for.
        mend: What its user can do about it.

    Raises:
        RunError: The device or the machine has no more of it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        if isinstance(error, RuntimeError) and not any(text in said for text in OUT_OF_MEMORY):
            raise
        raise RunError(f"There is not enough memory for {what}; {mend}") from error
