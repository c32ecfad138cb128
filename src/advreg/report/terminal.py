"""A study's table and sentences on a terminal."""

from __future__ import annotations

import os

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advreg.report.study import content, sentences
from advreg.report.study.read import groups_of, read_study

LEFT_OUT = ("NLL", "ECE", "Passes", "Time", "Seeds")
"""Columns that only the page has room for."""


def print_study(path: str | os.PathLike[str], console: Console | None = None) -> None:
    """Prints what came out of a study, and its table.

    Args:
        path: The results file, as `advreg compare` collects it.
        console: Where to; a new one by default.

    Raises:
        RunError: The file is missing, damaged, or of another kind.
    """
    results, console = read_study(path), console or Console(highlight=False)
    heads = content.headings(results)
    kept = [index for index, heading in enumerate(heads) if heading not in LEFT_OUT]
    groups = groups_of(results)
    for group in groups:
        table = Table(box=box.HORIZONTALS, collapse_padding=True, pad_edge=False, show_lines=True)
        table.title = Text(group) if len(groups) > 1 else None
        table.add_column("Training")
        for index in kept:
            table.add_column(heads[index], justify="right", no_wrap=True)
        for arm, cells in content.table(results, group):
            table.add_row(Text(arm), *(_cell(cells[index]) for index in kept))
        console.print(table)
    caption = (
        f"Accuracy in percent; below it the difference to {results['baseline']} in points and its"
        " 95 % interval, bold where that is a verdict."
    )
    if results["steps"]:
        caption += f" Step: its time over {results['baseline']}'s, and the quartiles."
    console.print(Text(caption, style="dim"))
    for number, sentence in enumerate(sentences.outcome(results), 1):
        console.print(Text(f"{number}. {sentence}"))
    for remark in sentences.remarks(results):
        console.print(Text(f"Note: {remark}", style="yellow"))


def _cell(cell: content.Cell) -> Text:
    """The figure, and what it is more than the baseline's, bold where that is a verdict."""
    sure = cell.verdict in ("better", "worse")
    return stacked(cell.figure, cell.difference or cell.interval, sure)


def stacked(figure: str, detail: str, sure: bool) -> Text:
    """A figure that does not wrap; below it a difference, then its interval, bold where sure."""
    style = "bold" if sure else "dim"
    difference, _, interval = detail.partition(" (")
    lines = [Text(line, style) for line in (difference, interval.rstrip(")")) if line]
    return Text("\n").join([Text(figure.replace(" ", "\N{NO-BREAK SPACE}")), *lines])
