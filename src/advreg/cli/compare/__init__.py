"""The command line: `advreg compare`, and its parts `plan`, `run` and `collect`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

PARTS = ("plan", "run", "collect")
"""What clusters need; without one of them a study is done from its plan to its page."""


def run(arguments: Sequence[str]) -> int:
    """Runs one of the parts, or all of a study."""
    part = arguments[0] if arguments and arguments[0] in PARTS else None
    rest = list(arguments)[1:] if part else list(arguments)
    code: int = import_module(f"advreg.cli.compare.{part or 'whole'}").run(rest)
    return code
