"""The measurement of what methods cost, as a table and as a chart."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advreg.report.plots import STYLE, finished_svg, shown


def print_bench(results: dict[str, Any], console: Console | None = None) -> None:
    """Prints the table of a measurement.

    Args:
        results: What `bench.json` holds.
        console: Where to; a new one by default.
    """
    console = console or Console(highlight=False)
    table = Table(box=box.HORIZONTALS, collapse_padding=True, pad_edge=False)
    table.add_column("Method", no_wrap=True)
    for heading in ("Passes", "Time", "Quartiles", "ms", "Peak", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in results["rows"]:
        table.add_row(Text(row["label"]), *_cells(row))
    console.print(table)
    console.print(Text(caption(results), style="dim"))
    for label, reason in results["left_out"].items():
        console.print(Text(f"Left out: {label}. {reason}", style="yellow"))


def _cells(row: dict[str, Any]) -> list[str]:
    time = row["time"]
    return [
        f"{row['passes']:g}",
        f"{time['median']:.2f}",
        f"{time['lower']:.2f} to {time['upper']:.2f}",
        f"{time['milliseconds']:.1f}",
        f"{row['peak_ratio']:.2f}",
        f"{row['peak_bytes'] / 1e6:.1f}",
    ]


def caption(results: dict[str, Any]) -> str:
    """What the figures are of."""
    settings, baseline = results["settings"], results["baseline"]
    replays = [row["label"] for row in results["rows"] if row["replays"] > 1]
    text = (
        f"{settings['model']}, batch {settings['batch_size']}, on"
        f" {settings['device']}, {settings['threads']} threads; time and peak memory relative to"
        f" {baseline}; median and quartiles of {results['rows'][0]['time']['rounds']} rounds."
    )
    return f"{text} A step of {', '.join(replays)} is one replay." if replays else text


def bench_chart(results: dict[str, Any]) -> str:
    """Step time and peak memory relative to plain training, as bars.

    Args:
        results: What `bench.json` holds.

    Returns:
        The text of an SVG element with a white ground.
    """
    rows = results["rows"]
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(8.4, 0.3 * len(rows) + 1.4), layout="constrained")
        left, right = canvas.subplots(1, 2, sharey=True)
        for index, row in enumerate(rows):
            time, color = row["time"], _color(row, results["baseline"])
            _bar(left, index, time["median"], color, (time["lower"], time["upper"]))
            _bar(right, index, row["peak_ratio"], color)
        left.set_yticks(range(len(rows)), [shown(row["label"]) for row in rows])
        left.set_ylim(len(rows) - 0.4, -0.6)  # the first one on top
        left.set(title="Step time, median and quartiles", xlabel="plain training = 1")
        right.set(title="Peak memory", xlabel="plain training = 1")
        return finished_svg(canvas, "Step time and peak memory relative to plain training")


def _color(row: dict[str, Any], baseline: str) -> str:
    if row["label"] == baseline:
        return "#000000"
    return "#0072B2" if "layerwise" in row["method"] else "#56B4E9"


def _bar(
    axes: Axes, index: int, value: float, color: str, quartiles: tuple[float, float] | None = None
) -> None:
    axes.barh(index, value, height=0.65, color=color)
    end = value
    if quartiles is not None:
        spread = [[max(value - quartiles[0], 0)], [max(quartiles[1] - value, 0)]]
        axes.errorbar(value, index, xerr=spread, color="#444444", capsize=2, linewidth=1)
        end = max(value, quartiles[1])
    axes.annotate(
        f"{value:.2f}",
        (end, index),
        (5, 0),
        "data",
        "offset points",
        verticalalignment="center",
        fontsize=9,
    )
    axes.margins(x=0.18)
    axes.grid(False, axis="y")
