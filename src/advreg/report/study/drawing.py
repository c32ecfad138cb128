"""How a study's chart is drawn: its arms' colours, its lines and rows, and their names."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advreg.report.plots import BASELINE, OTHERS, STYLE, finished_svg, shown
from advreg.report.study.read import Mean, Results, comparison, goal_figure, groups_of, labels_of

QUIET = {"color": "#b4b9bf", "linewidth": 0.9, "marker": ""}
"""Of arms that have no colour of their own."""

Style = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """A chart of one group.

    Attributes:
        name: Of its file.
        title: Its heading.
        alternative: What a reader who does not see it must know.
        svg: The text of an SVG element.
    """

    name: str
    title: str
    alternative: str
    svg: str


def styles(results: Results) -> dict[str, Style]:
    """A colour and marker for the baseline and six others; quiet lines for the rest.

    Where there are more than six, those have colours whose goal figure differs most from the
    baseline's.
    """
    others = labels_of(results)[1:]
    if len(others) > len(OTHERS):
        figure = goal_figure(results)

        def most(arm: str) -> float:
            found = [comparison(results, group, arm, figure) for group in groups_of(results)]
            return max((abs(one["mean"]) for one in found if one and one["count"]), default=-1.0)

        chosen = sorted(others, key=most, reverse=True)[: len(OTHERS)]
        others = [arm for arm in others if arm in chosen]
    colours = dict(zip(others, OTHERS, strict=False))
    return {
        arm: BASELINE if arm == results["baseline"] else colours.get(arm, QUIET)
        for arm in labels_of(results)
    }


def draw_chart(
    name: str,
    title: str,
    alternative: str,
    draw: Callable[[Axes], None],
    *,
    height: float = 3.9,
    legend: bool = True,
) -> Chart:
    """A chart of one panel, which `draw` fills; height in inches."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(4.8, height), layout="constrained")
        axes = canvas.subplots()
        draw(axes)
        if legend:
            draw_legend(canvas, axes)
        return Chart(name, title, alternative, finished_svg(canvas, f"{title}. {alternative}"))


def draw_legend(canvas: Figure, axes: Axes) -> None:
    """A panel's legend, below all panels."""
    handles, names = axes.get_legend_handles_labels()
    wrapped = ["\n".join(textwrap.wrap(name, 26)) for name in names]
    canvas.legend(handles, wrapped, loc="outside lower center", ncols=2)


def legend_names(arms: Sequence[str], all_styles: dict[str, Style]) -> dict[str, str]:
    """What the legend says of each; quiet arms are named once, together."""
    quiet = [arm for arm in arms if all_styles[arm] is QUIET]
    text = f"{len(quiet)} other{'s' * (len(quiet) > 1)}"
    return {
        arm: shown(arm) if arm not in quiet else text if arm == quiet[0] else "_" for arm in arms
    }


def listed(parts: Sequence[str], most: int = 8) -> str:
    """The first parts of a text alternative, and how many more there are."""
    more = f"; and {len(parts) - most} more" if len(parts) > most else ""
    return "; ".join(parts[:most]) + more


def draw_line(
    axes: Axes, points: Sequence[tuple[float, Mean]], style: Style, name: str, factor: float
) -> None:
    """A line of means with a band of their intervals."""
    across = [x for x, _ in points]
    means = [factor * mean.mean for _, mean in points]
    few = {"markevery": max(len(points) // 8, 1)}
    axes.plot(across, means, label=name, clip_on=False, **{**style, **few})
    ends = [(mean.low, mean.high) for _, mean in points]
    if style is QUIET or any(None in pair for pair in ends):
        return
    low, high = (factor * np.array(side, dtype=float) for side in zip(*ends, strict=True))
    axes.fill_between(across, low, high, color=style["color"], alpha=0.15, linewidth=0)


def name_rows(axes: Axes, arms: Sequence[str]) -> None:
    """A row for each arm, from the top, with its name on the left."""
    names = ["\n".join(textwrap.wrap(shown(arm), 24)) for arm in arms]
    axes.set_yticks(range(len(arms)), names)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(False, axis="y")


def height_of(arms: Sequence[str]) -> float:
    """Of a chart with a row for each arm, in inches."""
    lines = sum(len(textwrap.wrap(arm, 24)) for arm in arms)
    return 0.9 + 0.2 * lines + 0.14 * len(arms)
