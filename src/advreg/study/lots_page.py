"""The page of `advreg lots`: pictures of pairs, and how far images must move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from advreg.data import ImageData
from advreg.data.splits import generator
from advreg.evaluation.invariance import (
    Arrivals,
    by_class_pair,
    class_pairs,
    invariance,
    median_interval,
    spread,
)
from advreg.progress import Clock, Progress
from advreg.report.lots import LayerInvariance
from advreg.report.lots_page import LotsPage
from advreg.study.environment import environment
from advreg.study.lots import Until, choose_pairs, images_at, layers_of, look, rightly
from advreg.units import Number, at_least_one, non_negative

MOST_PAIRS = 400
"""Pairs that invariance is measured on at the most; more classes than 20 have more."""


def make_page(
    model: nn.Module,
    data: ImageData,
    *,
    run: str,
    network: str,
    data_name: str,
    layers: Iterable[str] | None,
    pairs: str,
    until: Number,
    steps: int,
    step_size: Number,
    invariance: int,
    seed: int,
    command: str,
    progress: Callable[[Progress], object] | None = None,
) -> LotsPage:
    """Moves the images and gathers what the page shows.

    Args:
        model: In evaluation mode.
        data: The test images.
        run: The run's name.
        network: The network's name.
        data_name: The data's name.
        layers: As of `advreg.lots_figure`.
        pairs: As of `choose_pairs`.
        until: As of `advreg.lots_figure`.
        steps: As of `advreg.lots_figure`.
        step_size: As of `advreg.lots_figure`.
        invariance: Pairs of every two classes to measure it on; 0 leaves it out.
        seed: Decides what is drawn.
        command: What makes the page again.
        progress: Called after each layer.

    Raises:
        ConfigurationError: A setting cannot work.
        DataError: The images are of one class.
        SiteError: There is no such layer, or it does not run.
    """
    ends, size = Until.read(until), non_negative(step_size, "step_size")
    at_least_one(steps=steps)
    names = layers_of(model, images_at(model, data, torch.tensor([0])), layers)
    origins, targets = choose_pairs(model, data, pairs, seed)
    clock = Clock(progress)
    clock.expect(len(names) * (1 + 3 * (invariance > 0)))
    views = look(
        model,
        images_at(model, data, origins),
        images_at(model, data, targets),
        names,
        until=ends,
        steps=steps,
        step_size=size,
        classes=(data.targets[origins], data.targets[targets]),
        names=data.classes,
        called=[
            (f"test image {one}", f"test image {other}")
            for one, other in zip(origins.tolist(), targets.tolist(), strict=True)
        ],
        progress=lambda layer: clock.did(1, f"moving images, {layer}"),
    )
    measured = []
    if invariance:
        measured = measure_invariance(
            model,
            data,
            names,
            invariance,
            until=ends,
            steps=steps,
            step_size=size,
            seed=seed,
            progress=lambda layer: clock.did(3, f"measuring invariance, {layer}"),
        )
    found = [(name, str(value)) for name, value in environment().items()]
    return LotsPage(
        run, network, data_name, str(ends), steps, size, views, data.classes, measured, command,
        found,
    )  # fmt: skip


def measure_invariance(
    model: nn.Module,
    data: ImageData,
    layers: Sequence[str],
    each: int,
    *,
    until: Until,
    steps: int,
    step_size: Number,
    seed: int = 0,
    batch_size: int = 100,
    progress: Callable[[str], object] | None = None,
) -> list[LayerInvariance]:
    """How far images must move, layer by layer, over pairs of every two classes.

    Only pairs count whose images the network classifies rightly; at most `MOST_PAIRS`.

    Args:
        model: In evaluation mode.
        data: The test images.
        layers: Layers' names.
        each: Pairs of two classes.
        until: When a layer shows its target.
        steps: As of `lots`.
        step_size: As of `lots`.
        seed: Decides what is drawn.
        batch_size: Pairs a pass.
        progress: Called with each layer once it is done.

    Returns:
        Nothing where no pair is left.
    """
    origins, targets = class_pairs(data.targets, each, seed)
    if len(origins) > MOST_PAIRS:
        kept = torch.randperm(len(origins), generator=generator(seed))[:MOST_PAIRS].sort().values
        origins, targets = origins[kept], targets[kept]
    right = rightly(model, data, origins, batch_size) & rightly(model, data, targets, batch_size)
    origins, targets = origins[right], targets[right]
    if not len(origins):
        return []
    found: dict[str, list[Arrivals]] = {layer: [] for layer in layers}
    parts = list(zip(origins.split(batch_size), targets.split(batch_size), strict=True))
    for layer in layers:
        for some, others in parts:
            images = images_at(model, data, some), images_at(model, data, others)
            one = invariance(
                model, *images, [layer], steps=steps, step_size=step_size, **until._asdict()
            )
            found[layer].append(one[layer])
        if progress is not None:
            progress(layer)
    kinds = data.targets[origins].tolist(), data.targets[targets].tolist()
    return [
        _layer_invariance(layer, parts, kinds, len(data.classes)) for layer, parts in found.items()
    ]


def _layer_invariance(
    layer: str, parts: Sequence[Arrivals], kinds: tuple[list[int], list[int]], classes: int
) -> LayerInvariance:
    rms, largest = (
        [255 * value for part in parts for value in getattr(part, kind).tolist()]
        for kind in ("rms", "largest")
    )
    cells = np.full((classes, classes), math.nan)
    for pair, one in by_class_pair(rms, *kinds).items():
        cells[pair] = one.median
    return LayerInvariance(
        layer, _described(rms), _described(largest), spread(rms).arrived, len(rms), cells
    )


def _described(values: list[float]) -> dict[str, float]:
    low, high = median_interval([values])
    return {**spread(values)._asdict(), "low": low, "high": high}
