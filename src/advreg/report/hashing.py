"""The hashing demo's results as one offline HTML page, and as a table."""

from __future__ import annotations

import base64
import os
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advreg.decoding import opened
from advreg.extras import needs
from advreg.files import replace_text
from advreg.report.hashing_plots import budgets, plots, quality, rows_of
from advreg.report.results import read_kind
from advreg.report.terminal import stacked

with needs("report", "the page of a study of codes"):
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

KIND = "advreg hash demo"

LARGE = 100_000
"""Bytes of a picture above which it is embedded as WebP."""


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
            name = f"mAP under attack at {figure}" if figure in budgets(results) else name
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
        rows = rows_of(results, label)
        reasons = [row["masked"][0] for row in rows if row["masked"]]
        if reasons:
            lines.append(
                f"{label}: an attack was masked in {len(reasons)} of {len(rows)} runs, so that mAP"
                f" under it is no sign of robustness. The first: {reasons[0]}"
            )
    return lines


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
        quality=Markup(quality(results["generator"])),
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
            found.append((title, _address(path)))
    return found


def _address(path: Path) -> str:
    """A PNG as a data address; a large one, which is of photographs, as WebP."""
    contents, kind = path.read_bytes(), "png"
    if len(contents) > LARGE:
        with opened(path, str(path)) as picture, BytesIO() as file:
            picture.convert("RGB").save(file, "WEBP", quality=80)
            contents, kind = file.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(contents).decode('ascii')}"


def write_hashing(path: str | os.PathLike[str]) -> Path:
    """Writes `report.html` beside a results file, and returns its path.

    Raises:
        RunError: The file is missing, damaged, or of another kind; nothing is written.
    """
    results, folder = read_hashing(path), Path(path).parent
    text = hashing_page(results, folder)
    page = folder / "report.html"
    replace_text(page, text)
    return page


def print_hashing(results: dict[str, Any], console: Console) -> None:
    """Prints the table and what was found."""
    shown_table = Table(box=box.HORIZONTALS, collapse_padding=True, pad_edge=False, show_lines=True)
    shown_table.add_column("Training")
    for heading, *_ in columns(results):
        shown_table.add_column(heading, justify="right")
    for label, cells in table(results):
        texts = [stacked(one["figure"], one["detail"], one["sure"]) for one in cells]
        shown_table.add_row(Text(label), *texts)
    console.print(shown_table)
    for line in sentences(results):
        console.print(Text(line))
