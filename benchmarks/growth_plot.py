"""The plot of `growth.py`."""

from __future__ import annotations

from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from advreg.report.plots import OTHERS, STYLE, finished_svg

LABELS = {
    "sites": "sites, of 60 blocks",
    "batch": "images in a mini-batch",
    "width": "width, times 8 channels",
    "depth": "layers of a ResNet",
}


def draw(results: dict[str, Any]) -> str:
    """Four columns: the step time over plain, and below it the cost of a million values.

    Returns:
        The text of an SVG element with a white ground, for light and dark pages.
    """
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(9.6, 4.8), layout="constrained")
        rows = canvas.subplots(2, len(LABELS), sharex="col", sharey="row")
        for place, (name, label) in enumerate(LABELS.items()):
            above, below = rows[0][place], rows[1][place]
            points = results["panels"][name]
            _ratios(above, points)
            found = results["slopes"][name]
            fitted = "not measurable" if found is None else f"{found:.2f}"
            above.set_title(f"{name}, slope {fitted}")
            xs = [point["x"] for point in points]
            below.plot(xs, [point["ms_per_million"] for point in points], **OTHERS[1])
            below.set_xscale("log", base=2)
            below.set_xticks(xs, [f"{x:,}" for x in xs])
            below.xaxis.set_minor_locator(NullLocator())
            below.set_xlabel(label)
        rows[0][0].set_ylabel("step time, plain = 1")
        rows[1][0].set_ylabel("ms added for a\nmillion values")
        rows[1][0].set_ylim(bottom=0)
        return finished_svg(canvas, "How the cost of layerwise training grows")


def _ratios(axes: Axes, points: list[dict[str, Any]]) -> None:
    medians = [point["median"] for point in points]
    spread = [
        [max(point["median"] - point["lower"], 0) for point in points],
        [max(point["upper"] - point["median"], 0) for point in points],
    ]
    xs = [point["x"] for point in points]
    axes.axhline(1, color="#000000", linewidth=1, linestyle=(0, (4, 2)))
    axes.errorbar(xs, medians, yerr=spread, capsize=3, **OTHERS[3])
