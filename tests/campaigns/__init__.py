"""Longer trials than the tests have time for, each a command that writes down its figures."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def report(name: str, figures: dict[str, Any], out: str | None = None) -> None:
    """Prints figures and writes them to `benchmarks/results/NAME.json`, or to `out`."""
    from advreg.version import __version__  # one campaign imports other copies of the package

    versions = {"advreg": __version__, "torch": torch.__version__}
    text = json.dumps({**figures, **versions, "python": platform.python_version()}, indent=2)
    print(text)
    path = Path(out) if out else RESULTS / f"{name}.json"
    path.write_text(text + "\n", encoding="utf-8")
