"""The hashing demo's results as one offline HTML page, and as a table."""

from __future__ import annotations

import base64
import os
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advreg.extras import needs
from advreg.files import replace_file
from advreg.report.plots import BASELINE, OTHERS, STYLE, finished_svg, shown
from advreg.report.results import read_kind

with needs("report", "the page of a study of codes"):
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

KIND = "advreg hash demo"


def read_hashing(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what the hashing demo has written.

    Raises:
        RunError: It is missing, damaged, or of another kind.
    """
    return read_kind(path, KIND, ("title", "arms", "seeds", "summary", "rows", "pictures"))


def columns(results: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Heading, figure and factor of the table's columns."""
    attacks = [(f"mAP, {epsilon}", epsilon, 100.0) for epsilon in results["scale"]["epsilons"]]
    return [
        ("mAP", "map", 100.0),
        *((f"mAP, {name}", name, 100.0) for name in results["scale"].get("splits", ())),
        ("Within 2 bits", "precision_within", 100.0),
        *attacks,
        ("Entropy, generated", "generated_entropy", 1.0),
    ]


def cell(found: dict[str, Any], factor: float) -> dict[str, Any]:
    """A figure with its standard error, and the paired difference with its 95 % interval."""
    digits = 1 if factor == 100 else 2
    estimate, difference = found["estimate"], found["difference"]
    text = f"{factor * found['mean']:.{digits}f}"
    if estimate is not None:
        text += f" ± {factor * estimate['standard_error']:.{digits}f}"
    if difference is None:
        return {"figure": text, "detail": "", "sure": False}
    mean, low, high = (factor * difference[part] for part in ("mean", "low", "high"))
    return {
        "figure": text,
        "detail": f"{mean:+.{digits}f} ({low:.{digits}f} to {high:.{digits}f})",
        "sure": low > 0 or high < 0,
    }


def table(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """A row for each arm: `cell` of each column, the bounds below the mAP's own figure."""
    rows = []
    for label, found in results["summary"].items():
        cells = [cell(found[figure], factor) for _, figure, factor in columns(results)]
        low, high = (100 * found[bound]["mean"] for bound in ("pessimistic", "optimistic"))
        cells[0]["bounds"] = f"{low:.1f} to {high:.1f}"
        rows.append((label, cells))
    return rows


def lengths(results: dict[str, Any]) -> dict[str, Any] | None:
    """mAP by the length of the codes, from the first seed; None where there is one length."""
    rows = [row for row in results["rows"] if row["seed"] == results["seeds"][0]]
    found = {(row["arm"], row["bits"]): row["map"] for row in [*rows, *results["lengths"]]}
    several = sorted({bits for _, bits in found})
    if len(several) < 2:
        return None
    texts = [
        (
            label,
            [
                f"{100 * found[label, bits]:.1f}" if (label, bits) in found else ""
                for bits in several
            ],
        )
        for label in results["summary"]
    ]
    return {"bits": several, "rows": texts}


def sentences(results: dict[str, Any]) -> list[str]:
    """What was found, whichever way it fell."""
    baseline = next(iter(results["summary"]))
    lines = []
    for label, found in list(results["summary"].items())[1:]:
        said: dict[str, list[str]] = {}
        for name, figure, _ in columns(results):
            difference = found[figure]["difference"]
            if difference is None or not name.startswith("mAP"):
                continue
            low, high = 100 * difference["low"], 100 * difference["high"]
            verb = "raises" if low > 0 else "lowers" if high < 0 else "does not clearly change"
            name = f"mAP under attack at {figure}" if figure in _budgets(results) else name
            mean = 100 * difference["mean"]
            said.setdefault(verb, []).append(f"{name} ({mean:+.1f}, {low:.1f} to {high:.1f})")
        entropies = [
            results["summary"][one]["generated_entropy"]["mean"] for one in (baseline, label)
        ]
        parts = [f"{verb} {' and '.join(names)}" for verb, names in said.items()]
        lines.append(
            f"{label}: {'; '.join(parts) or 'no interval, from one seed'}. The entropy of bits on"
            f" generated images goes from {entropies[0]:.2f} to {entropies[1]:.2f}."
        )
    return lines + masked_lines(results)


def masked_lines(results: dict[str, Any]) -> list[str]:
    """For each arm with attacks that show nothing: in how many runs, and why in the first."""
    lines = []
    for label in results["summary"]:
        rows = _rows(results, label)
        reasons = [row["masked"][0] for row in rows if row["masked"]]
        if reasons:
            lines.append(
                f"{label}: an attack was masked in {len(reasons)} of {len(rows)} runs, so that mAP"
                f" under it is no sign of robustness. The first: {reasons[0]}"
            )
    return lines


def _budgets(results: dict[str, Any]) -> list[str]:
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


def quality(lines: list[dict[str, Any]]) -> Markup | None:
    """The generator's figures through its training, as SVG; None where there are too few."""
    lines = [line for line in lines if "own_fid" in line]
    if len(lines) < 2:
        return None
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
        return Markup(finished_svg(canvas, "Own-FID and likeness through the training"))


def _rows(results: dict[str, Any], label: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["arm"] == label]


def _curves(axes: Axes, results: dict[str, Any]) -> None:
    """Means over seeds; radii at which some seed finds nothing are left out."""
    for label, style in styles(results).items():
        curves = [row["curve"] for row in _rows(results, label)]
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
    groups = ["map", *_budgets(results)]
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
    texts = ["clean, with bounds", *(f"attacked, {epsilon}" for epsilon in _budgets(results))]
    axes.set_xticks(range(len(groups)), texts)
    axes.set(ylabel="mAP in percent", ylim=(0, 100))
    axes.grid(False, axis="x")
    axes.figure.legend(loc="outside lower center", ncols=3)


def _bits(axes: Axes, results: dict[str, Any], figure: str) -> None:
    for label, style in styles(results).items():
        shares = [
            fmean(values)
            for values in zip(*(row[figure] for row in _rows(results, label)), strict=True)
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


def hashing_page(results: dict[str, Any], folder: Path) -> str:
    """The text of `report.html`.

    Args:
        results: As `read_hashing` returns them.
        folder: Where `pictures/` lies.
    """
    environment = Environment(
        loader=PackageLoader("advreg.report", "."), autoescape=True, undefined=StrictUndefined
    )
    style = files("advreg.report").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template("hashing.html.j2").render(
        results=results,
        style=Markup(style),
        lengths=lengths(results),
        generator=results["generator"][-1],
        quality=quality(results["generator"]),
        headings=[heading for heading, *_ in columns(results)],
        table=table(results),
        sentences=sentences(results),
        # Our own drawings, in which matplotlib has escaped every text.
        plots=[(title, Markup(svg)) for title, svg in plots(results)],
        grids=_embedded(results, folder, arms=False),
        rows=_embedded(results, folder, arms=True),
    )


def _embedded(results: dict[str, Any], folder: Path, arms: bool) -> list[tuple[str, str]]:
    """Title and data address of the pictures that are there."""
    found = []
    for title, name in results["pictures"].items():
        path = folder / "pictures" / Path(name).name
        if (title in results["summary"]) == arms and path.is_file():
            contents = base64.b64encode(path.read_bytes()).decode("ascii")
            found.append((title, f"data:image/png;base64,{contents}"))
    return found


def write_hashing(path: str | os.PathLike[str]) -> Path:
    """Writes `report.html` beside a results file, and returns its path.

    Raises:
        RunError: The file is missing, damaged, or of another kind; nothing is written.
    """
    results, folder = read_hashing(path), Path(path).parent
    text = hashing_page(results, folder)
    page = folder / "report.html"
    replace_file(page, lambda name: name.write_text(text, encoding="utf-8"))
    return page


def print_hashing(results: dict[str, Any], console: Console) -> None:
    """Prints the table and what was found."""
    shown_table = Table(box=box.HORIZONTALS, collapse_padding=True, pad_edge=False, show_lines=True)
    shown_table.add_column("Training", no_wrap=True)
    for heading, *_ in columns(results):
        shown_table.add_column(heading, justify="right")
    for label, cells in table(results):
        texts = [
            Text.assemble(one["figure"], "\n", (one["detail"], "bold" if one["sure"] else "dim"))
            for one in cells
        ]
        shown_table.add_row(Text(label), *texts)
    console.print(shown_table)
    for line in sentences(results):
        console.print(Text(line))
