"""How much memory there is, and running out of it as a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from advreg.errors import RunError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch says, on a GPU, on Linux and on Windows."""

GROUPS = Path("/sys/fs/cgroup")


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


def all_memory() -> int:
    """Bytes that this process could ever take: the machine's, or its control group's if less."""
    return min([_machine("MemTotal"), *(limit for limit, _ in _groups())])


def free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's if less."""
    groups = (limit - used for limit, used in _groups())
    return max(min([_machine("MemAvailable"), *groups]), 0)


def _groups() -> list[tuple[int, int]]:
    """Limit and use of the control group, if there is one; files in its cache can be dropped."""
    found = []
    for limit, used, counts, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        with suppress(OSError, ValueError, KeyError):  # no control group, or "max"
            parts = dict(line.split() for line in (GROUPS / counts).read_text().splitlines())
            taken = int((GROUPS / used).read_text()) - int(parts[cache])
            found.append((int((GROUPS / limit).read_text()), taken))
    return found


def _machine(which: str) -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return found[which] * 1024
    except (OSError, KeyError, ValueError, IndexError):  # not Linux
        if hasattr(os, "sysconf"):
            pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return pages if which == "MemTotal" else pages // 2
        return 2**62
