"""The report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from advreg.report import content


def markdown(results: dict[str, Any], plots: Sequence[tuple[str, str, str]]) -> str:
    """The text of `report.md`.

    Args:
        results: As `read_results` returns them.
        plots: Short name, title and SVG of each; the files lie in `plots/` beside it.
    """
    rows = [
        [label, *(" · ".join(filter(None, (cell.figure, cell.detail))) for cell in cells)]
        for label, cells in content.table(results)
    ]
    verdicts = [
        f"- **{content.verdict_mark(verdict)}.** {safe(content.claim(verdict))}"
        f" {safe(verdict['sentence'])}"
        for verdict in results["verdicts"]
    ]
    pictures = [f"![{safe(title)}](plots/{name}.svg)" for name, title, _ in plots]
    arms = [[arm["label"], content.arm_settings(arm), arm["source"]] for arm in results["arms"]]
    parts = [
        f"# {safe(results['title'])}",
        safe(content.introduction(results)),
        *(f"> {safe(remark)}" for remark in content.remarks(results)),
        _table(["Training", *content.headings(results)], rows, "right"),
        safe(content.caption(results)),
        "## What held and what did not",
        "\n".join(verdicts) or "Too few runs were finished to say.",
        "## Plots",
        "Bands are 95 % intervals of the mean over seeds.",
        *pictures,
        "## How to reproduce",
        _code(results["command"]),
        _table(["Training", "Method and settings", "Settings from"], arms),
        _table(["Setting of every run", ""], map(list, content.flat(results["settings"]))),
        _table(["Measured with", ""], map(list, content.flat(results["environment"]))),
    ]
    return "\n\n".join(parts) + "\n"


def safe(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _code(text: str) -> str:
    return "    " + " ".join(text.split())


def _table(head: Sequence[str], rows: Any, align: str = "left") -> str:
    others = "---:" if align == "right" else "---"
    lines = [[safe(str(cell)) for cell in row] for row in rows]
    rule = ["---", *[others] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), rule, *lines])
