"""The command line: `advreg compare`, its parts `plan`, `run` and `collect`, and `--model`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

PARTS = {"plan": "plan", "run": "share", "collect": "collect"}
"""The modules of what clusters need; without one of them a study is done from plan to page."""


def run(arguments: Sequence[str]) -> int:
    """Runs one of the parts, or all of a study."""
    part, *rest = list(arguments) or [""]
    if part not in PARTS:
        rest = list(arguments)
    one_network = any(argument.partition("=")[0] == "--model" for argument in rest)
    module = PARTS.get(part, "own" if one_network else "whole")
    code: int = import_module(f"advreg.cli.compare.{module}").run(rest)
    return code
