"""The table and the verdicts on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advreg.report import content


def print_results(results: dict[str, Any], console: Console | None = None) -> None:
    """Prints the table, what held and what did not.

    Args:
        results: As `read_results` returns them.
        console: Where to; a new one by default.
    """
    console = console or Console(highlight=False)
    table = Table(box=box.HORIZONTALS, collapse_padding=True, pad_edge=False, show_lines=True)
    table.add_column("Training", no_wrap=True)
    for heading in content.headings(results):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, cells in content.table(results):
        table.add_row(Text(label), *map(_cell, cells))
    console.print(table)
    console.print(Text(content.caption(results), style="dim"))
    for verdict in results["verdicts"]:
        style = "green" if verdict["held"] else "red"
        mark = Text(content.verdict_mark(verdict) + ". ", style=style)
        console.print(mark + Text(f"{content.claim(verdict)} {verdict['sentence']}"))
    for remark in content.remarks(results):
        console.print(Text(f"Note: {remark}", style="yellow"))


def _cell(cell: content.Cell) -> Text:
    style = "bold" if cell.sure else "dim"
    return Text.assemble(cell.figure, "\n", (cell.detail, style))
