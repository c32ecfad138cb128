"""One offline HTML page on what the layers of a network show by LOTS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advreg.files import replace_text
from advreg.report import lots

MOST_CLASSES = 20
"""Classes of a heat map, at the most."""


@dataclass(frozen=True)
class LotsPage:
    """What a page shows.

    Attributes:
        run: The run's name.
        network: The network's name.
        data: The data's name.
        until: When an image stopped, as the end of a sentence.
        steps: The most steps.
        step_size: Of one step, in [0, 1].
        pairs: The pairs; one at least.
        classes: The classes' names.
        invariance: By layer; empty where it was not measured.
        command: What makes the page again.
        environment: Versions, as pairs of name and value.
    """

    run: str
    network: str
    data: str
    until: str
    steps: int
    step_size: float
    pairs: Sequence[lots.PairView]
    classes: Sequence[str]
    invariance: Sequence[lots.LayerInvariance]
    command: str
    environment: Sequence[tuple[str, str]]


def lots_page(page: LotsPage) -> str:
    """The text of the page; whatever comes from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("advreg.report", "."), autoescape=True, undefined=StrictUndefined
    )
    style = files("advreg.report").joinpath("page.css").read_text(encoding="utf-8")
    scale = lots.Scale.of(page.pairs)
    return environment.get_template("lots.html.j2").render(
        page=page,
        style=Markup(style),
        scale=scale,
        pairs=[_pair(number, pair, scale) for number, pair in enumerate(page.pairs, start=1)],
        invariance=_invariance(page),
    )


def write_lots_page(page: LotsPage, path: Path) -> None:
    """Writes the page whole, or leaves what was there."""
    replace_text(path, lots_page(page))


def _pair(number: int, pair: lots.PairView, scale: lots.Scale) -> dict[str, Any]:
    classes = pair.classes or pair.seen_as
    title = f"{number}. From {classes[0]} to {classes[1]}"
    curves = lots.curves_svg(pair, f"Distance over steps, pair {number}")
    return {
        "title": title,
        "names": f"Origin: {pair.names[0]}, seen as {pair.seen_as[0]}. Target: {pair.names[1]},"
        f" seen as {pair.seen_as[1]}.",
        "rows": [_row(pair, view, scale) for view in pair.layers],
        # Our own drawing, in which matplotlib has escaped every text.
        "curves": Markup(curves),
    }


def _row(pair: lots.PairView, view: lots.LayerView, scale: lots.Scale) -> dict[str, Any]:
    classes = pair.classes or pair.seen_as
    largest = 255 * float(abs(view.image - pair.origin).max())
    texts = (
        f"Origin, of class {classes[0]}",
        f"Target, of class {classes[1]}",
        f"Origin moved until {view.layer} shows the target, now seen as {view.seen_as}",
        f"Signed perturbation for {view.layer}, at most {largest:.0f}/255, on a scale of {scale}",
        f"Size of the perturbation for {view.layer} over the grey origin",
    )
    pixels = lots.pictures(pair, view, scale)
    return {
        "layer": view.layer,
        "pictures": [
            {"address": lots.address(one), "text": text, "title": title}
            for one, text, title in zip(pixels, texts, lots.COLUMNS, strict=True)
        ],
        "largest": f"{largest:.0f}/255",
        "rms": f"{255 * float(((view.image - pair.origin) ** 2).mean()) ** 0.5:.1f}/255",
        "steps": lots.steps_text(view),
        "arrived": view.arrived,
        "distance": f"{view.curve[-1]:.3g}",
        "share": f", {view.curve[-1] / view.curve[0]:.0%} of the first" if view.curve[0] else "",
        "seen_as": view.seen_as,
        "changed": view.seen_as != pair.seen_as[0],
    }


def _invariance(page: LotsPage) -> dict[str, Any] | None:
    if not page.invariance:
        return None
    layers = list(page.invariance)
    top = max([v for one in layers for v in one.cells.ravel() if math.isfinite(v)] or [1.0])
    heats = []
    if len(page.classes) <= MOST_CLASSES:
        heats = [
            (one.layer, Markup(lots.cells_svg(one, page.classes, top, f"By class, {one.layer}")))
            for one in layers
        ]
    return {
        "pairs": layers[0].pairs,
        "rows": [
            {
                "layer": one.layer,
                "rms": lots.with_quartiles(one.rms),
                "interval": " to ".join(lots.in_255ths(one.rms[end]) for end in ("low", "high")),
                "largest": lots.with_quartiles(one.largest),
                "arrived": f"{one.arrived:.0%}",
            }
            for one in layers
        ],
        "depth": Markup(lots.depth_svg(layers, "How far images move, by layer")),
        "heats": heats,
    }
