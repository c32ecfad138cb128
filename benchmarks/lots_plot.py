"""The picture of `lots_digits.py`: how far images move over depth, and by class."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from advreg.evaluation.invariance import by_class_pair
from advreg.report.lots import draw_cells, draw_depth
from advreg.report.plots import BASELINE, OTHERS, STYLE, finished_svg

TITLES = {
    "class": "until the network sees the target's class",
    "features": "until a quarter of the distance is left",
}


def draw(results: dict[str, Any], arms: tuple[str, ...], cells: tuple[str, str], layer: str) -> str:
    """Above, medians over depth of every arm; below, medians by class of two of them."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(9.6, 8.4), layout="constrained")
        above, below = canvas.subfigures(2, 1, height_ratios=[1, 1.05])
        for axes, (criterion, title) in zip(above.subplots(1, 2), TITLES.items(), strict=True):
            _over_depth(axes, results, criterion, arms)
            axes.set_title(title)
        handles, names = axes.get_legend_handles_labels()
        above.legend(handles, names, loc="outside lower center", ncols=len(arms))
        medians = [_by_class(results, arm, layer) for arm in cells]
        top = max(value for one in medians for value in one.ravel() if math.isfinite(value))
        for part, arm, one in zip(below.subfigures(1, 2), cells, medians, strict=True):
            axes = part.subplots()
            axes.grid(False)
            draw_cells(part, axes, one, [str(name) for name in range(len(one))], top)
            axes.set_title(f"{arm}: {layer}, until the target's class")
        return finished_svg(canvas, "How far images move until a layer shows another class")


def _over_depth(axes: Any, results: dict[str, Any], criterion: str, arms: tuple[str, ...]) -> None:
    layers = results["settings"]["layers"]
    for number, arm in enumerate(arms):
        found = results["distances"][criterion]["rms"][arm]
        rows = [
            {
                "median": _number(found[layer]["median"]),
                "low": _number(found[layer]["interval"][0]),
                "high": _number(found[layer]["interval"][1]),
            }
            for layer in layers
        ]
        style = BASELINE if number == 0 else OTHERS[(number - 1) % len(OTHERS)]
        shift = 0.1 * (number - (len(arms) - 1) / 2)
        draw_depth(axes, rows, style["color"], style["marker"], arm, shift, band=False)
    axes.set_xticks(range(len(layers)), layers)
    axes.set(ylabel="moved, RMS in 1/255", ylim=(0, None))


def _number(value: float | None) -> float:
    return math.inf if value is None else value


def _by_class(results: dict[str, Any], arm: str, layer: str) -> np.ndarray:
    rows = [row for row in results["rows"] if row["arm"] == arm]
    values, origins, targets = [], [], []
    for row in rows:
        values += [_number(value) for value in row["moved"]["class"][layer]["rms"]]
        origins += row["origins"]
        targets += row["targets"]
    cells = np.full((10, 10), math.nan)
    for pair, one in by_class_pair(values, origins, targets).items():
        cells[pair] = one.median
    return cells
