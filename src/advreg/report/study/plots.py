"""A study's charts, as SVG text with a text alternative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from advreg.report.plots import STYLE, finished_svg, shown
from advreg.report.study.content import figures
from advreg.report.study.drawing import (
    QUIET,
    Chart,
    Style,
    draw_chart,
    draw_legend,
    draw_line,
    height_of,
    legend_names,
    listed,
    name_rows,
    styles,
)
from advreg.report.study.read import (
    CLEAN,
    Mean,
    Results,
    by_epoch,
    comparison,
    goal_figure,
    labels_of,
    present,
    rows_of,
    sites_of,
    summary,
)
from advreg.report.study.sentences import where

FRONT: Style = {"color": "#6b7280", "linewidth": 1, "linestyle": ":", "label": "Pareto front"}


def charts(results: Results, group: str) -> list[Chart]:
    """Every chart of a group that there are figures for."""
    attacked = goal_figure({**results, "goal": "robustness"})
    drawn: list[Chart | None] = []
    if attacked != CLEAN:
        drawn = [_over_epsilon(results, group), _robust_over_clean(results, group, attacked)]
    drawn += [
        *(_differences(results, group, figure) for figure in dict.fromkeys((CLEAN, attacked))),
        _calibration(results, group),
        _over_cost(results, group, goal_figure(results)),
        _curves(results, group, "train_loss", "Training loss"),
        _curves(results, group, "validation_accuracy", "Accuracy on validation images"),
        *(_sites(results, group, arm) for arm in _with_colours(results)),
    ]
    return [chart for chart in drawn if chart is not None]


def _with_colours(results: Results) -> list[str]:
    return [arm for arm, style in styles(results).items() if style is not QUIET]


def _over_epsilon(results: Results, group: str) -> Chart | None:
    arms = [arm for arm, _ in present(results, group, CLEAN)]
    if not arms:
        return None
    all_styles = styles(results)
    names = legend_names(arms, all_styles)

    def draw(axes: Axes) -> None:
        for arm in sorted(arms, key=lambda one: all_styles[one] is not QUIET):
            points = [
                (float(Fraction(figure)) if figure != CLEAN else 0.0, mean)
                for figure in figures(results)
                if (mean := summary(results, group, arm, figure)) is not None
            ]
            draw_line(axes, points, all_styles[arm], names[arm], 100)
        epsilons = [0.0, *(float(Fraction(one)) for one in results["epsilons"])]
        axes.set_xticks(epsilons, ["0", *results["epsilons"]])
        axes.set(xlabel="epsilon", ylabel="accuracy (%)", xlim=(0, max(epsilons)))
        axes.set_ylim(0, min(axes.get_ylim()[1], 100))  # intervals of few seeds go beyond

    last = results["epsilons"][-1]
    parts = [
        f"{arm} from {100 * mean.mean:.1f} % to {_percent(summary(results, group, arm, last))}"
        for arm, mean in present(results, group, CLEAN)
    ]
    alternative = f"From clean images to {last}: {listed(parts)}."
    return draw_chart("epsilon", "Accuracy over epsilon", alternative, draw)


def _percent(mean: Mean | None) -> str:
    return "no figure" if mean is None else f"{100 * mean.mean:.1f} %"


def _differences(results: Results, group: str, figure: str) -> Chart | None:
    found = [
        one
        for arm in labels_of(results)
        if (one := comparison(results, group, arm, figure)) and one["count"]
    ]
    if not found:
        return None
    baseline = results["baseline"]

    def draw(axes: Axes) -> None:
        axes.axvspan(-0.5, 0.5, color="#e8eaed", zorder=0, linewidth=0)
        axes.axvline(0, color="#000000", linewidth=1)
        for place, one in enumerate(found):
            sure = one["verdict"] in ("better", "worse")
            colour = "#0072B2" if one["mean"] > 0 else "#D55E00"
            style: Style = {"color": colour if sure else "#6b7280", "markersize": 6}
            style["markerfacecolor"] = style["color"] if sure else "#ffffff"
            spread = None
            if one["low"] is not None:
                sides = one["mean"] - one["low"], one["high"] - one["mean"]
                spread = [[100 * side] for side in sides]
            at = 100 * one["mean"]
            axes.errorbar(at, place, xerr=spread, fmt="o", capsize=3, **style)
        name_rows(axes, [one["arm"] for one in found])
        axes.set_xlabel(f"points more than {shown(baseline)}")

    title = f"Difference to {baseline} {where(figure)}"
    parts = [f"{one['arm']} {100 * one['mean']:+.1f} points, {one['verdict']}" for one in found]
    name = f"difference-{'clean' if figure == CLEAN else 'attacked'}"
    height = height_of([one["arm"] for one in found])
    return draw_chart(name, title, f"{listed(parts)}.", draw, height=height, legend=False)


def _calibration(results: Results, group: str) -> Chart | None:
    found = present(results, group, "ece")
    if not found:
        return None

    def draw(axes: Axes) -> None:
        for place, (_, mean) in enumerate(found):
            spread = None if mean.low is None else [[100 * (mean.mean - mean.low)]] * 2
            axes.errorbar(100 * mean.mean, place, xerr=spread, fmt="o", capsize=3, color="#1d2126")
        name_rows(axes, [arm for arm, _ in found])
        axes.set_xlabel("expected calibration error (%)")
        ends = [mean.mean if mean.high is None else mean.high for _, mean in found]
        axes.set_xlim(0, max(108 * max(ends), 1))

    parts = [f"{arm} {100 * mean.mean:.1f} %" for arm, mean in found]
    height = height_of([arm for arm, _ in found])
    title = "Calibration error on clean images"
    return draw_chart("calibration", title, f"{listed(parts)}.", draw, height=height, legend=False)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other one beats: none has as much of both and more of one."""
    return [
        index
        for index, (x, y) in enumerate(points)
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)
    ]


def _robust_over_clean(results: Results, group: str, figure: str) -> Chart | None:
    clean = dict(present(results, group, CLEAN))
    robust = dict(present(results, group, figure))
    points = {
        arm: (100 * clean[arm].mean, 100 * robust[arm].mean) for arm in clean if arm in robust
    }
    passes = {arm: summary(results, group, arm, "passes") for arm in points}
    most = max((one.mean for one in passes.values() if one), default=1.0)
    areas = {arm: 40 + 160 * (one.mean / most if one else 0) for arm, one in passes.items()}
    label = f"{where(figure)} (%)"  # short enough for a low chart
    title = "Clean against robust"
    note = " The larger a mark, the more passes the training takes." if len(points) > 1 else ""
    draw = partial(_scatter, results, points, areas, "accuracy on clean images (%)", label, 1)
    return _pareto("clean-robust", title, points, 1, draw, note)


def _over_cost(results: Results, group: str, figure: str) -> Chart | None:
    accuracy, seconds = (dict(present(results, group, name)) for name in (figure, "seconds"))
    points = {
        arm: (seconds[arm].mean, 100 * accuracy[arm].mean) for arm in accuracy if arm in seconds
    }
    label = f"{where(figure)} (%)"  # short enough for a low chart
    draw = partial(_scatter, results, points, {}, "training time (s)", label, -1)
    return _pareto("cost", "Accuracy against training time", points, -1, draw, "")


def _scatter(
    results: Results,
    points: dict[str, tuple[float, float]],
    areas: dict[str, float],
    across: str,
    upwards: str,
    sign: int,
    axes: Axes,
) -> None:
    all_styles = styles(results)
    names = legend_names(list(points), all_styles)
    best = front([(sign * x, y) for x, y in points.values()])
    on_front = sorted(list(points.values())[index] for index in best)
    if len(on_front) > 1:
        axes.step(*zip(*on_front, strict=True), where="pre" if sign > 0 else "post", **FRONT)
    for arm, (x, y) in points.items():
        style = all_styles[arm]
        marker = style["marker"] or "."
        colour = style["color"]
        axes.scatter(x, y, areas.get(arm, 60), c=colour, marker=marker, zorder=3)
        axes.plot([], [], marker, color=colour, label=names[arm])  # all of one size in the legend
    axes.set(xlabel=across, ylabel=upwards)
    axes.margins(0.12)
    if sign < 0:
        axes.set_xlim(0, 1.08 * max(x for x, _ in points.values()) or 1)


def _pareto(
    name: str,
    title: str,
    points: dict[str, tuple[float, float]],
    sign: int,
    draw: Callable[[Axes], None],
    note: str,
) -> Chart | None:
    if not points:
        return None
    best = front([(sign * x, y) for x, y in points.values()])
    arms = [list(points)[index] for index in best]
    unit = "%" if sign > 0 else "s"
    parts = [f"{arm} ({points[arm][0]:.1f} {unit}, {points[arm][1]:.1f} %)" for arm in arms]
    return draw_chart(name, title, f"On the Pareto front: {listed(parts)}.{note}", draw)


def _curves(results: Results, group: str, name: str, title: str) -> Chart | None:
    found = {arm: by_epoch(rows_of(results, group, arm), name) for arm in labels_of(results)}
    found = {arm: curve for arm, curve in found.items() if curve}
    if not found:
        return None
    all_styles = styles(results)
    names = legend_names(list(found), all_styles)
    percent = name.endswith("accuracy")

    def draw(axes: Axes) -> None:
        for arm in sorted(found, key=lambda one: all_styles[one] is not QUIET):
            draw_line(axes, found[arm], all_styles[arm], names[arm], 100 if percent else 1)
        axes.set(xlabel="epoch", ylabel=f"{'accuracy (%)' if percent else 'loss'}")
        axes.set_ylim(0, min(axes.get_ylim()[1], 100) if percent else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    last = [
        f"{arm} {100 * curve[-1][1].mean:.1f} %" if percent else f"{arm} {curve[-1][1].mean:.3f}"
        for arm, curve in found.items()
    ]
    return draw_chart(name.replace("_", "-"), title, f"Last epoch: {listed(last)}.", draw)


def _sites(results: Results, group: str, arm: str) -> Chart | None:
    """An arm's relative size and cosine, site by site over the epochs."""
    rows = rows_of(results, group, arm)
    sites = sites_of(rows)
    curves = {
        name: {site: by_epoch(rows, name, site) for site in sites}
        for name in ("relative", "cosine")
    }
    if not any(curve for found in curves.values() for curve in found.values()):
        return None
    colours = matplotlib.colormaps["viridis"].resampled(max(len(sites), 2))
    with matplotlib.rc_context(STYLE):
        rows_of_names = (len(sites) + 1) // 2
        canvas = Figure(figsize=(4.8, 5.4 + 0.19 * rows_of_names), layout="constrained")
        panels = canvas.subplots(2, 1, sharex=True)
        for axes, found, factor in zip(panels, curves.values(), (100, 1), strict=True):
            for place, (site, curve) in enumerate(found.items()):
                style = {"color": colours(place / max(len(sites) - 1, 1) * 0.88), "marker": ""}
                draw_line(axes, curve, style, shown(site), factor)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel("relative size (%)")
        panels[0].set_ylim(bottom=0)
        panels[1].set(ylabel="cosine", xlabel="epoch")
        panels[1].axhline(0, color="#000000", linewidth=0.8)
        draw_legend(canvas, panels[1])
        parts = [
            f"{site} {curve[-1][1].mean:.2f}" for site, curve in curves["cosine"].items() if curve
        ]
        title = f"Sites of {arm}"
        alternative = (
            "Above, how large the perturbation is relative to the activation; below, the cosine"
            " between what was applied and the gradient that came back, in the last epoch:"
            f" {listed(parts)}."
        )
        svg = finished_svg(canvas, f"{title}. {alternative}")
    place = labels_of(results).index(arm)
    return Chart(f"sites-{place}", title, alternative, svg)
