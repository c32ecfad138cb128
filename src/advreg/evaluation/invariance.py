"""How far images must move before a layer shows an image of another class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advreg.attacks.lots import lots
from advreg.checks import Range
from advreg.data.splits import generator
from advreg.errors import ConfigurationError, DataError
from advreg.tensors import rows, wide
from advreg.units import Number, at_least_one

QUANTILES = (0.25, 0.75)
"""What is given beside every median."""


class Arrivals(NamedTuple):
    """How far each origin moved until a layer showed its target, in units of pixels' values.

    Attributes:
        rms: (N,) root mean square over the pixels, infinite where the step limit came first.
        largest: (N,) the largest change of a pixel, infinite likewise.
    """

    rms: Tensor
    largest: Tensor


class Spread(NamedTuple):
    """What a sample of distances, some infinite, says; all of them are values of the sample.

    Attributes:
        median: The smallest value that half of the sample does not exceed.
        lower: The same for a quarter of it.
        upper: The same for three quarters.
        arrived: The share that is finite.
        size: How many there are.
    """

    median: float
    lower: float
    upper: float
    arrived: float
    size: int


def class_pairs(targets: Tensor, each: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws origins and targets for every ordered pair of classes, without repeating a class's.

    Args:
        targets: (N,) int64 classes.
        each: Pairs for two classes; fewer where a class has fewer images.
        seed: Decides the draws.

    Returns:
        The places of the origins and of the targets, both (M,) int64, pair of classes by pair.

    Raises:
        DataError: There is only one class.
        ConfigurationError: `each` is under one.
    """
    at_least_one(each=each)
    draws, kinds = generator(seed), targets.unique().tolist()
    if len(kinds) < 2:
        raise DataError(
            f"The images are of {len(kinds)} class; give images of two classes or more, to have"
            " targets of another class."
        )
    members = {kind: (targets == kind).nonzero().flatten() for kind in kinds}

    def some(kind: int) -> Tensor:
        return members[kind][torch.randperm(len(members[kind]), generator=draws)[:each]]

    drawn = [(some(one), some(other)) for one in kinds for other in kinds if one != other]
    fitting = [(a[: len(b)], b[: len(a)]) for a, b in drawn]
    return torch.cat([a for a, _ in fitting]), torch.cat([b for _, b in fitting])


def arrivals(
    model: nn.Module,
    origins: Tensor,
    targets: Tensor,
    layer: str,
    *,
    share: Number | None = 0.25,
    until_class: bool = False,
    classes: Tensor | None = None,
    steps: int = 100,
    step_size: Number = 4 / 255,
    input_range: Range | None = (0.0, 1.0),
) -> Arrivals:
    """Moves origins by LOTS until the layer shows their targets, and says how far they moved.

    A layer shows a target when the distance of the features has come down to `share` of what it
    was, or, with `until_class`, when the network takes the image for the target's class.

    Args:
        model: As for `advreg.attacks.lots`, in evaluation mode.
        origins: (N, ...) images.
        targets: (N, ...) images of other classes.
        layer: A layer's name, or "input".
        share: As of `lots`.
        until_class: As of `lots`.
        classes: As of `lots`.
        steps: As of `lots`.
        step_size: As of `lots`; how far is known to so much.
        input_range: As of `lots`.

    Raises:
        ConfigurationError: Neither condition is set, or as `lots`.
        DataError: As `lots`.
        SiteError: As `lots`.
    """
    if share is None and not until_class:
        raise ConfigurationError("Nothing would stop an image; give a share, or until_class=True.")
    found = lots(
        model,
        origins,
        targets,
        layer,
        steps,
        share=share,
        until_class=until_class,
        classes=classes,
        step_size=step_size,
        input_range=input_range,
    )
    change = rows(wide(found.images) - wide(origins)).abs()
    sizes = change.square().mean(1).sqrt(), change.amax(1)
    return Arrivals(*(torch.where(found.success, size, math.inf).cpu() for size in sizes))


def invariance(
    model: nn.Module,
    origins: Tensor,
    targets: Tensor,
    layers: Iterable[str],
    *,
    progress: Callable[[str], object] | None = None,
    **options: object,
) -> dict[str, Arrivals]:
    """`arrivals` by layer.

    Args:
        model: As for `arrivals`.
        origins: As for `arrivals`.
        targets: As for `arrivals`.
        layers: The layers to compare.
        progress: Called with each layer once it is measured.
        **options: Further settings of `arrivals`.
    """
    found = {}
    for layer in layers:
        found[layer] = arrivals(model, origins, targets, layer, **options)  # type: ignore[arg-type]
        if progress is not None:
            progress(layer)
    return found


def spread(values: Sequence[float]) -> Spread:
    """Median, quartiles and the share that is finite, of at least one value."""
    sample = np.asarray(values, dtype=np.float64)
    lower, median, upper = (_quantile(sample, part) for part in (QUANTILES[0], 0.5, QUANTILES[1]))
    return Spread(median, lower, upper, float(np.isfinite(sample).mean()), len(sample))


def median_interval(
    groups: Sequence[Sequence[float]], draws: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """A bootstrap interval of the median, by the percentiles of resampled medians.

    Whole groups are drawn first and then values within each, so that the values of one network
    do not count as independent of one another. Of a single group only values are drawn.

    Args:
        groups: Values by group, infinite ones allowed.
        draws: Resampled medians.
        confidence: Of the interval.
        seed: Decides the draws.

    Returns:
        The lower and the upper end; both are values of the sample, perhaps infinite.
    """
    numbers, samples = np.random.default_rng(seed), [np.asarray(group) for group in groups]
    medians = np.empty(draws)
    for draw in range(draws):
        chosen = numbers.integers(len(samples), size=len(samples))
        drawn = [
            samples[group][numbers.integers(len(samples[group]), size=len(samples[group]))]
            for group in chosen
        ]
        medians[draw] = _quantile(np.concatenate(drawn), 0.5)
    tail = (1 - confidence) / 2
    return _quantile(medians, tail), _quantile(medians, 1 - tail)


def by_class_pair(
    values: Sequence[float], origins: Sequence[int], targets: Sequence[int]
) -> Mapping[tuple[int, int], Spread]:
    """`spread` of the values of each origin's and target's class.

    Args:
        values: One each pair of images.
        origins: The origins' classes.
        targets: The targets' classes.
    """
    found: dict[tuple[int, int], list[float]] = {}
    for value, origin, target in zip(values, origins, targets, strict=True):
        found.setdefault((origin, target), []).append(value)
    return {pair: spread(sample) for pair, sample in found.items()}


def _quantile(sample: np.ndarray, part: float) -> float:
    """A value of the sample, so that infinite ones are never averaged."""
    return float(np.quantile(sample, part, method="inverted_cdf"))
