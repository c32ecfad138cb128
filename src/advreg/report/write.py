"""From a results file to the files that people read."""

from __future__ import annotations

import os
from pathlib import Path

from advreg.report.markdown import markdown
from advreg.report.page import page
from advreg.report.plots import figure, plots
from advreg.report.results import read_results


def write_report(path: str | os.PathLike[str]) -> Path:
    """Writes `report.html`, `report.md` and `plots/` beside a results file.

    Args:
        path: The results file.

    Returns:
        The page.

    Raises:
        RunError: The file is missing, damaged, or of another kind; nothing is written.
    """
    results = read_results(path)
    folder = Path(path).parent
    drawn = plots(results)
    texts = {folder / "report.md": markdown(results, drawn)}
    texts |= {folder / "plots" / f"{name}.svg": svg for name, _, svg in drawn}
    texts[folder / "plots" / "demo.svg"] = figure(results)
    texts[folder / "report.html"] = page(results, drawn)
    (folder / "plots").mkdir(exist_ok=True)
    for name, text in texts.items():
        temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, name)
    return folder / "report.html"
