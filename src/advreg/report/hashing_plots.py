"""The plots of a study of codes."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advreg.report.plots import BASELINE, OTHERS, STYLE, finished_svg, shown

SHORT = 21
"""Characters of a label with which three fit side by side below the bars."""


def budgets(results: dict[str, Any]) -> list[str]:
    """Of the attacks, as written."""
    return list(results["scale"]["epsilons"])


def styles(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each arm."""
    labels = list(results["summary"])
    return {
        label: BASELINE if not place else OTHERS[(place + 2) % len(OTHERS)]
        for place, label in enumerate(labels)
    }


def plots(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and SVG of each plot."""
    return [
        (title, _drawn(title, draw, results))
        for title, draw in (
            ("Precision over recall, by Hamming radius", _curves),
            ("mAP with its bounds, and under attack", _bars),
            ("Relaxed bits of generated images", _generated_bits),
            ("Relaxed bits of queries", _query_bits),
        )
    ]


def _drawn(title: str, draw: Any, results: dict[str, Any]) -> str:
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(5.6, 3.8), layout="constrained")
        draw(canvas.subplots(), results)
        return finished_svg(canvas, title)


def quality(lines: list[dict[str, Any]]) -> str:
    """The generator's figures through its training, as SVG; empty where there are too few."""
    lines = [line for line in lines if "own_fid" in line]
    if len(lines) < 2:
        return ""
    steps = [line["step"] for line in lines]
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(5.6, 3.8), layout="constrained")
        upper, lower = canvas.subplots(2, sharex=True)
        upper.plot(steps, [line["own_fid"] for line in lines], **BASELINE)
        upper.set(ylabel="own-FID", ylim=(0, None))
        for place, (name, text) in enumerate(
            (("spread", "spread"), ("distance_to_training", "distance to training"))
        ):
            lower.plot(steps, [line[name] for line in lines], label=text, **OTHERS[place + 2])
        lower.axhline(0.5, color="#777777", linewidth=1, linestyle=":")
        lower.set(xlabel="step", ylabel="relative", ylim=(0, None))
        lower.legend()
        return finished_svg(canvas, "Own-FID and likeness through the training")


def rows_of(results: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """The runs of an arm."""
    return [row for row in results["rows"] if row["arm"] == label]


def _curves(axes: Axes, results: dict[str, Any]) -> None:
    """Means over seeds; radii at which some seed finds nothing are left out."""
    for label, style in styles(results).items():
        curves = [row["curve"] for row in rows_of(results, label)]
        points = [
            (fmean(recalls), fmean(precisions))
            for recalls, precisions in zip(
                zip(*(curve["recall"] for curve in curves), strict=True),
                zip(*(curve["precision"] for curve in curves), strict=True),
                strict=True,
            )
            if None not in precisions
        ]
        axes.plot(*zip(*points, strict=True), label=shown(label), **style)
    axes.set(xlabel="recall", ylabel="precision", ylim=(0, 1.03))
    axes.legend()


def _bars(axes: Axes, results: dict[str, Any]) -> None:
    groups = ["map", *budgets(results)]
    arms = styles(results)
    width = 0.8 / len(arms)
    for place, (label, style) in enumerate(arms.items()):
        found = results["summary"][label]
        left = [group + (place - (len(arms) - 1) / 2) * width for group in range(len(groups))]
        heights = [100 * found[figure]["mean"] for figure in groups]
        axes.bar(left, heights, width * 0.92, color=style["color"], label=shown(label))
        bounds = [[heights[0] - 100 * found["pessimistic"]["mean"]]]
        bounds.append([100 * found["optimistic"]["mean"] - heights[0]])
        axes.errorbar(left[:1], heights[:1], yerr=bounds, color="#777777", capsize=2, linewidth=1)
    texts = ["clean, with bounds", *(f"attacked, {epsilon}" for epsilon in budgets(results))]
    axes.set_xticks(range(len(groups)), texts)
    axes.set(ylabel="mAP in percent", ylim=(0, 100))
    axes.grid(False, axis="x")
    widest = max(len(shown(label)) for label in arms)
    axes.figure.legend(loc="outside lower center", ncols=3 if widest <= SHORT else 2)


def _bits(axes: Axes, results: dict[str, Any], figure: str) -> None:
    for label, style in styles(results).items():
        shares = [
            fmean(values)
            for values in zip(*(row[figure] for row in rows_of(results, label)), strict=True)
        ]
        middles = [(place + 0.5) / len(shares) for place in range(len(shares))]
        axes.plot(middles, [100 * share for share in shares], label=shown(label), **style)
    axes.set(xlabel="relaxed bit h", ylabel="share of bits in percent", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend()


def _generated_bits(axes: Axes, results: dict[str, Any]) -> None:
    _bits(axes, results, "generated_confidence")


def _query_bits(axes: Axes, results: dict[str, Any]) -> None:
    _bits(axes, results, "confidence")
