"""The plots, as SVG text that needs nothing from outside."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from advreg.report.content import labels

# Okabe and Ito's colours, which colour-blind readers can distinguish; each with its own marker.
BASELINE = {"color": "#000000", "linestyle": (0, (4, 2)), "marker": "o"}
OTHERS = [
    {"color": "#CC79A7", "marker": "v"},
    {"color": "#E69F00", "marker": "^"},
    {"color": "#009E73", "marker": "s"},
    {"color": "#0072B2", "marker": "D"},
    {"color": "#D55E00", "marker": "P"},
    {"color": "#56B4E9", "marker": "X"},
]
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "lines.markersize": 5,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.titlesize": 10,
    "svg.hashsalt": "advreg",  # the same results give the same file
}
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD"}


def figure(results: dict[str, Any]) -> str:
    """Accuracy over epsilon under PGD and under FGSM, side by side, as one SVG.

    Args:
        results: As `read_results` returns them.

    Returns:
        The text of an SVG element with a white ground.
    """
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(8.4, 4.2), layout="constrained")
        left, right = canvas.subplots(1, 2, sharey=True)
        for axes, attack in ((left, "pgd"), (right, "fgsm")):
            _over_epsilon(axes, results, attack)
            axes.set_title(_attack(results, attack))
        right.set_ylabel("")
        handles, names = left.get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside lower center", ncols=3)
        return finished_svg(canvas, "Accuracy over epsilon under PGD and FGSM")


def plots(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Every plot of the report that the results have figures for.

    Returns:
        For each a short name, a title and the SVG.
    """
    found = []
    with matplotlib.rc_context(STYLE):
        for attack in ("pgd", "fgsm"):
            canvas, axes = _single()
            _over_epsilon(axes, results, attack)
            title = f"Accuracy over epsilon under {_attack(results, attack)}"
            found.append((f"accuracy-{attack}", title, _finished(canvas, axes, title)))
        for name, axis, title in (
            ("train_loss", "training loss", "Training loss, perturbed where the method perturbs"),
            ("validation_accuracy", "validation accuracy (%)", "Accuracy on validation images"),
        ):
            canvas, axes = _single()
            _over_epochs(axes, results, name)
            axes.set_ylabel(axis)
            found.append((name.replace("_", "-"), title, _finished(canvas, axes, title)))
        if results["cost"]:
            canvas, axes = _single(height=0.55 * len(results["cost"]) + 0.8)
            _costs(axes, results)
            title = "Time per training step, relative to the baseline"
            found.append(("cost", title, finished_svg(canvas, title)))
    return found


def _single(height: float = 3.9) -> tuple[Figure, Axes]:
    canvas = Figure(figsize=(4.8, height), layout="constrained")
    return canvas, canvas.subplots()


def _finished(canvas: Figure, axes: Axes, title: str) -> str:
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return finished_svg(canvas, title)


def _attack(results: dict[str, Any], attack: str) -> str:
    steps = results["settings"]["attacks"]["pgd_steps"]
    return f"PGD-{steps}" if attack == "pgd" else "FGSM"


def _style(index: int) -> dict[str, Any]:
    return BASELINE if index == 0 else OTHERS[(index - 1) % len(OTHERS)]


def _over_epsilon(axes: Axes, results: dict[str, Any], attack: str) -> None:
    epsilons = [0.0, *results["epsilons"]]
    for index, label in enumerate(labels(results)):
        summary = results["summary"][label]
        points = [summary["clean"], *(summary[attack][str(value)] for value in epsilons[1:])]
        if any(point is None for point in points):
            continue
        style = _style(index)
        means = _percent(points, "mean")
        axes.plot(epsilons, means, label=shown(label), clip_on=False, **style)
        low, high = _percent(points, "low"), _percent(points, "high")
        axes.fill_between(epsilons, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 5, 10]))
    axes.set(xlabel="epsilon", ylabel="accuracy (%)", ylim=(0, 100), xlim=(0, max(epsilons)))


def _over_epochs(axes: Axes, results: dict[str, Any], name: str) -> None:
    scale = 100 if name.endswith("accuracy") else 1
    for index, label in enumerate(labels(results)):
        values = [scale * value for value in results["summary"][label]["training"][name]]
        style = {**_style(index), "markevery": max(len(values) // 8, 1)}
        axes.plot(range(1, len(values) + 1), values, label=shown(label), **style)
    axes.set_xlabel("epoch")
    axes.set_ylim(bottom=0, top=100 if scale == 100 else None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _costs(axes: Axes, results: dict[str, Any]) -> None:
    for index, label in enumerate(labels(results)):
        cost = results["cost"].get(label)
        if cost is None:
            continue
        median, lower, upper = cost["median"], cost["lower"], cost["upper"]
        axes.barh(index, median, height=0.6, color=_style(index)["color"])
        spread = [[max(median - lower, 0)], [max(upper - median, 0)]]
        axes.errorbar(median, index, xerr=spread, color="#444444", capsize=3, linewidth=1)
        axes.annotate(
            f"{median:.2f}",
            (max(upper, median), index),
            (6, 0),
            "data",
            "offset points",
            verticalalignment="center",
        )
    axes.set_yticks(range(len(labels(results))), [shown(label) for label in labels(results)])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("median and quartiles, baseline = 1")
    axes.grid(False, axis="y")


def _percent(points: Sequence[dict[str, Any]], field: str) -> list[float]:
    return [100 * point[field] for point in points]


def shown(label: str) -> str:
    """A label that matplotlib neither hides nor reads as a formula."""
    return label.replace("$", r"\$").lstrip("_") or "unnamed"


def _shorter(number: re.Match[str]) -> str:
    """Coordinates to a tenth of a point; what is below one, such as a scale, to four digits."""
    value = float(number[0])
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.1f}"


def finished_svg(canvas: Figure, title: str) -> str:
    """The figure as SVG text that needs nothing from outside and is the same each time."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]  # without the declaration, which names an address
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Several plots stand in one page: groups are never referred to, so they need no ids.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    # A twentieth of a point is not seen; with what is blank, that is a third of the file.
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(?<![\d.#\w])-?\d+\.\d{2,}(?=[^\d.\w])", _shorter, text)
    text = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", text))
    label = escape(title)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
