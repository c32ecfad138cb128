"""The end of a study of codes: its results, their page, and what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from advreg.files import replace_file
from advreg.training import Interrupted


def finish(
    folder: Path,
    results: dict[str, Any],
    write: Callable[[Path], Path],
    show: Callable[[dict[str, Any], Console], None],
    console: Console,
    total: int,
) -> Path:
    """Writes the results and the page, and says what was found.

    Args:
        folder: Where they go.
        results: With `rows`, `seconds`, `failures`, and whether they were `interrupted`.
        write: Makes the page of the results' file.
        show: Prints the results.
        console: Where to.
        total: Runs that were planned.

    Raises:
        Interrupted: The study was; what was finished has been written.
    """
    path = folder / "results.json"
    text = json.dumps(results, indent=1, allow_nan=False)
    replace_file(path, lambda name: name.write_text(text, encoding="utf-8"))
    report = write(path)
    show(results, console)
    for failure in results["failures"]:
        console.print(
            "{arm}, seed {seed}, failed: {reason}".format(**failure), soft_wrap=True, markup=False
        )
    console.print(
        f"Report: {report}   Figures: {path}   ({results['seconds']:.0f} s)",
        soft_wrap=True,
        markup=False,
    )
    if results["interrupted"]:
        raise Interrupted(
            f"Interrupted; {len(results['rows'])} of {total} runs are kept in {path}."
        )
    return report
