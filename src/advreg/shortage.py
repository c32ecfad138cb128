"""How much memory there is, and running out of it as a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's if less."""
    free = [_machine()]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            root = Path("/sys/fs/cgroup")
            free.append(int((root / limit).read_text()) - int((root / used).read_text()))
        except (OSError, ValueError):  # no control group, or "max"
            continue
    return max(min(free), 0)


def _machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return found["MemAvailable"] * 1024
    except (OSError, KeyError, ValueError, IndexError):  # not Linux
        if hasattr(os, "sysconf"):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        return 2**62
