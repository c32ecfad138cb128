"""Choosing examples: class by class in proportion, repeatable from a seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advreg.errors import ConfigurationError, DataError
from advreg.units import Number, number

LARGEST_VALIDATION = 5000
"""What a share of the training images is capped at; more would say little more."""


def generator(seed: int) -> torch.Generator:
    """A random state of its own, on the CPU.

    Raises:
        ConfigurationError: The seed is no whole number of at least 0.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigurationError(f"seed is {seed!r}; give a whole number of at least 0.")
    return torch.Generator().manual_seed(seed)


def stratified_order(targets: Tensor, seed: int) -> Tensor:
    """Shuffles examples such that every beginning holds each class in proportion.

    The k-th of a class's n examples stands at (k + 1/2) / n of the way; what stands at the
    same point is in random order.

    Args:
        targets: (N,) int64 classes.
        seed: Decides the order within and between classes.

    Returns:
        (N,) int64, a permutation; of its first n, each class has its share of n, rounded.
    """
    shuffled = torch.randperm(len(targets), generator=generator(seed))
    point = torch.empty(len(targets), dtype=torch.float64)
    labels = targets[shuffled]
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        point[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[point.argsort(stable=True)]


def hold_out(targets: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Parts examples in two, each class in proportion.

    Returns:
        The `count` examples held out, and the others; both (n,) int64 in rising order.
    """
    order = stratified_order(targets, seed)
    return order[:count].sort().values, order[count:].sort().values


def validation_count(validation: Number, available: int) -> int:
    """How many training images the validation split takes.

    Args:
        validation: A share below 1 (at most 5,000 images), or a number of images.
        available: Number of training images.

    Raises:
        DataError: Nothing would be left for one of the two.
        ConfigurationError: It is not a positive number.
    """
    wanted = number(validation, "validation")
    if wanted <= 0 or (wanted > 1 and wanted != math.floor(wanted)):
        raise ConfigurationError(
            f"validation is {validation!r}; give a share below 1 or a number of images."
        )
    count = wanted if wanted >= 1 else min(max(round(wanted * available), 1), LARGEST_VALIDATION)
    if count >= available:
        raise DataError(
            f"A validation split of {count:g} would leave nothing of {available} training images;"
            " take a smaller one or add images."
        )
    return int(count)


def limited(indices: Tensor, targets: Tensor, limit: int | None, seed: int) -> Tensor:
    """At most `limit` of the training examples at `indices`, each class in proportion.

    Raises:
        DataError: There are fewer than `limit`, or it is below 1.
    """
    if limit is None:
        return indices
    if not isinstance(limit, int) or not 1 <= limit <= len(indices):
        raise DataError(
            f"limit is {limit!r} and {len(indices)} training images are left beside validation;"
            f" give a whole number from 1 to {len(indices)}, or no limit."
        )
    chosen, _ = hold_out(targets[indices], limit, seed)
    return indices[chosen]
