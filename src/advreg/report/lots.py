"""LOTS drawn: what moving an image until a layer shows another one's features looks like."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from advreg.report.plots import STYLE, finished_svg, shown

SIGNED, HEAT, DEPTH = "RdBu_r", "inferno", "viridis"
"""Colours of perturbations about zero, of their sizes, and of layers from first to last."""

CLIPPED = 0.02
"""The share of pixels that may lie beyond the ends of the shared scale."""

COLUMNS = ("origin", "target", "perturbed", "signed", "its size")


@dataclass(frozen=True)
class LayerView:
    """What matching one layer made of an image.

    Attributes:
        layer: Its name.
        image: (H, W, C) the moved image, in [0, 1].
        steps: Steps taken.
        arrived: Whether a condition to stop was met.
        curve: Distance to the target's features before the first step and after each one taken.
        seen_as: The class that the network now gives it.
    """

    layer: str
    image: np.ndarray
    steps: int
    arrived: bool
    curve: tuple[float, ...]
    seen_as: str


@dataclass(frozen=True)
class PairView:
    """An origin and a target, and what each layer made of the origin.

    Attributes:
        origin: (H, W, C) in [0, 1].
        target: (H, W, C) in [0, 1].
        classes: The classes of the two; None where they are not known.
        seen_as: The classes that the network gives them.
        names: What the two are called, such as "test image 12".
        layers: The layers' views, from the first layer to the last.
    """

    origin: np.ndarray
    target: np.ndarray
    classes: tuple[str, str] | None
    seen_as: tuple[str, str]
    names: tuple[str, str]
    layers: tuple[LayerView, ...]

    def perturbation(self, view: LayerView) -> np.ndarray:
        """(H, W) the signed change of the pixels, the mean over channels."""
        return np.asarray((view.image - self.origin).mean(2))

    def size(self, view: LayerView) -> np.ndarray:
        """(H, W) its absolute value, the mean over channels."""
        return np.asarray(np.abs(view.image - self.origin).mean(2))


@dataclass(frozen=True)
class Scale:
    """One scale for all signed perturbations of a page.

    Attributes:
        end: Where it ends, either way.
        largest: The largest value, which may lie beyond.
    """

    end: float
    largest: float

    @classmethod
    def of(cls, pairs: Sequence[PairView]) -> Scale:
        """Of all layers of all pairs."""
        sizes = [np.abs(pair.perturbation(view)) for pair in pairs for view in pair.layers]
        values = np.concatenate([size.ravel() for size in sizes])
        end = float(np.quantile(values, 1 - CLIPPED))
        return cls(end or float(values.max()) or 1 / 255, float(values.max()))

    def __str__(self) -> str:
        return f"±{255 * self.end:.3g}/255"


def signed(perturbation: np.ndarray, scale: Scale) -> np.ndarray:
    """(H, W, 3) bytes: red raises a pixel, blue lowers it, white leaves it."""
    place = np.clip(perturbation / scale.end, -1, 1) / 2 + 0.5
    return _bytes(matplotlib.colormaps[SIGNED](place)[..., :3])


def heat(size: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(H, W, 3) bytes: sizes over the grey image, which shines through where they are small."""
    share = size / (size.max() or 1)
    grey = np.repeat(origin.mean(2, keepdims=True), 3, axis=2)
    strength = (0.25 + 0.65 * share)[..., None]
    return _bytes((1 - strength) * grey + strength * matplotlib.colormaps[HEAT](share)[..., :3])


def picture(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) bytes of an image of one, three or more channels."""
    if image.shape[2] not in (1, 3):
        image = image.mean(2, keepdims=True)
    return _bytes(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)


def pictures(pair: PairView, view: LayerView, scale: Scale) -> list[np.ndarray]:
    """A row's five pictures, in the order of `COLUMNS`."""
    return [
        picture(pair.origin),
        picture(pair.target),
        picture(view.image),
        signed(pair.perturbation(view), scale),
        heat(pair.size(view), pair.origin),
    ]


def address(pixels: np.ndarray) -> str:
    """A picture as a data address, at its own size: a browser enlarges it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def steps_text(view: LayerView) -> str:
    """The steps taken, and whether they were enough."""
    return str(view.steps) if view.arrived else f"not in {view.steps}"


def pair_figure(pair: PairView) -> Figure:
    """One pair: a row a layer, its five pictures, its figures, and below all curves."""
    scale, count = Scale.of([pair]), len(pair.layers)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        canvas = Figure(figsize=(9.2, 1.35 * count + 3.2), layout="constrained")
        parts: Any = canvas.subfigures(2, 1, height_ratios=[1.35 * count + 0.5, 2.7])
        rows, below = parts
        grid = rows.subplots(count, 6, squeeze=False, width_ratios=[1, 1, 1, 1, 1, 1.7])
        for axes, view in zip(grid, pair.layers, strict=True):
            for place, pixels in zip(axes[:5], pictures(pair, view, scale), strict=True):
                place.imshow(pixels, interpolation="nearest")
                place.set(xticks=[], yticks=[])
                place.spines[:].set_visible(False)
            axes[0].set_ylabel(shown(view.layer), rotation=0, ha="right", va="center")
            lines = (
                f"steps: {steps_text(view)}",
                f"distance: {view.curve[-1]:.3g} of {view.curve[0]:.3g}",
                f"largest change: {255 * pair.size(view).max():.0f}/255",
                f"now seen as {view.seen_as}",
            )
            axes[5].text(0, 0.5, shown("\n".join(lines)), va="center", linespacing=1.5)
            axes[5].set_axis_off()
        for place, title in zip(grid[0], COLUMNS, strict=False):
            place.set_title(f"signed\n{scale}" if title == "signed" else title)
        axes = below.subplots()
        _curves(axes, pair)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return canvas


def curves_svg(pair: PairView, title: str) -> str:
    """Distance over steps of every layer of a pair."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(4.8, 3.6), layout="constrained")
        _curves(canvas.subplots(), pair)
        canvas.legend(loc="outside lower center", ncols=3)
        return finished_svg(canvas, title)


def _curves(axes: Axes, pair: PairView) -> None:
    """Relative to the first distance, for layers differ in their units; a dot where one stopped."""
    for view, colour in zip(pair.layers, _by_depth(len(pair.layers)), strict=True):
        first = view.curve[0] or 1
        values = [value / first for value in view.curve]
        axes.plot(values, color=colour, label=shown(view.layer))
        style = {"marker": "o" if view.arrived else "x", "color": colour}
        axes.plot(len(values) - 1, values[-1], **style)
    axes.set(xlabel="steps", ylabel="distance, share of the first", ylim=(0, None))
    axes.set_xlim(left=0)
    axes.grid(True, color="#e3e3e3")


def _by_depth(count: int) -> Iterator[Any]:
    shades = matplotlib.colormaps[DEPTH]
    return (shades(0.9 * place / max(count - 1, 1)) for place in range(count))


def _bytes(pixels: np.ndarray) -> np.ndarray:
    return (255 * np.clip(pixels, 0, 1)).round().astype(np.uint8)


@dataclass(frozen=True)
class LayerInvariance:
    """How far images must move before a layer shows an image of another class, in 1/255.

    Attributes:
        layer: Its name.
        rms: Median, quartiles and interval of the root mean square change; infinite where as
            many never arrived.
        largest: The same of the largest change of a pixel.
        arrived: The share of the pairs that arrived.
        pairs: Their number.
        cells: (K, K) medians of the root mean square by origin's and target's class, infinite
            where most never arrived, not a number where there is no pair.
    """

    layer: str
    rms: dict[str, float]
    largest: dict[str, float]
    arrived: float
    pairs: int
    cells: np.ndarray


def in_255ths(value: float) -> str:
    """A distance for people."""
    return f"{value:.0f}" if math.isfinite(value) else "never"


def with_quartiles(found: dict[str, float]) -> str:
    """A median with its quartiles."""
    return (
        f"{in_255ths(found['median'])} ({in_255ths(found['lower'])} to {in_255ths(found['upper'])})"
    )


def depth_svg(layers: Sequence[LayerInvariance], title: str) -> str:
    """Medians over depth with their intervals, and the quartiles as a band."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(4.8, 4.0), layout="constrained")
        axes = canvas.subplots()
        for name, colour, marker in (("rms", "#0072B2", "D"), ("largest", "#D55E00", "P")):
            draw_depth(axes, [getattr(one, name) for one in layers], colour, marker, NAMES[name])
        axes.set_xticks(range(len(layers)), [shown(one.layer) for one in layers])
        if len(layers) > 4:
            axes.tick_params(axis="x", rotation=35 if len(layers) < 9 else 90)
        axes.set(ylabel="moved, in 1/255", ylim=(0, None))
        canvas.legend(loc="outside lower center", ncols=2)
        return finished_svg(canvas, title)


NAMES = {"rms": "root mean square", "largest": "largest change of a pixel"}


def draw_depth(
    axes: Axes,
    layers: Sequence[dict[str, float]],
    colour: str,
    marker: str,
    label: str,
    shift: float = 0.0,
    band: bool = True,
) -> None:
    """One line over the layers; where a median is infinite there is a gap."""
    places = [place + shift for place in range(len(layers))]
    median, low, high = (
        [one[part] if math.isfinite(one[part]) else math.nan for one in layers]
        for part in ("median", "low", "high")
    )
    axes.plot(places, median, color=colour, marker=marker, label=label)
    axes.vlines(places, low, high, color=colour, linewidth=1.2)
    if band:
        lower, upper = (
            [one[part] if math.isfinite(one[part]) else math.nan for one in layers]
            for part in ("lower", "upper")
        )
        axes.fill_between(places, lower, upper, color=colour, alpha=0.13, linewidth=0)


def cells_svg(one: LayerInvariance, names: Sequence[str], top: float, title: str) -> str:
    """A layer's medians by class, darker where images move less; hatched where most never arrive.

    Args:
        one: The layer.
        names: The classes' names.
        top: Where the scale of colours ends, the same for every layer.
        title: For those who do not see it.
    """
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        canvas = Figure(figsize=(4.8, 4.0), layout="constrained")
        draw_cells(canvas, canvas.subplots(), one.cells, names, top)
        return finished_svg(canvas, title)


def draw_cells(
    canvas: Figure, axes: Axes, cells: np.ndarray, names: Sequence[str], top: float
) -> None:
    """A heat map of classes, with its bar of colours."""
    count = len(names)
    drawn = axes.pcolormesh(np.ma.masked_invalid(cells), cmap="cividis", vmin=0, vmax=top)
    for row, column in np.argwhere(~np.isnan(cells)):
        value = cells[row, column]
        if math.isinf(value):
            axes.fill(
                [column, column + 1, column + 1, column], [row, row, row + 1, row + 1],
                facecolor="#f2f2f2", edgecolor="#888888", hatch="////", linewidth=0,
            )  # fmt: skip
        elif count <= 12:
            colour = "white" if value < 0.55 * top else "black"
            place = (column + 0.5, row + 0.5, f"{value:.0f}")
            axes.text(*place, ha="center", va="center", fontsize=7.5, color=colour)
    ticks = [place + 0.5 for place in range(count)]
    axes.set_xticks(ticks, [shown(name) for name in names], rotation=90 * (_long(names)))
    axes.set_yticks(ticks, [shown(name) for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="class of the target", ylabel="class of the origin")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    canvas.colorbar(drawn, ax=axes, label="median, RMS in 1/255")


def _long(names: Sequence[str]) -> bool:
    return sum(map(len, names)) > 24
