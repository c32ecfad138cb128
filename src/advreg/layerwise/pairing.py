"""Pairing a mini-batch with other classes than the memory's, by reordering the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.batch import Batch
from advreg.errors import DataError


def pair(batch: Batch, previous_targets: Tensor | None) -> Batch:
    """Reorders a batch so that each position has another class than it held before.

    The paper takes each perturbation "from a different class compared to the current input";
    moving the batch rather than the memories costs one gather of the batch.

    Args:
        batch: B examples with (B,) integer targets.
        previous_targets: (B',) targets of the previous mini-batch, by position; None before the
            first one, and then nothing moves.

    Returns:
        The same examples, each with its own target, index and view, in an order with the fewest
        possible misses: max(0, max_c(old_c + new_c) - B) of them for two batches of B.

    Raises:
        DataError: The targets are class probabilities.
    """
    if batch.targets.dim() != 1:
        raise DataError(
            "Pairing needs integer class targets, not class probabilities; leave it out."
        )
    if previous_targets is None:
        return batch
    order = pairing_order(batch.targets, previous_targets)
    return batch if order is None else batch.select(order)


def pairing_order(targets: Tensor, previous: Tensor) -> Tensor | None:
    """The permutation behind `pair`, (B,) int64; None where nothing has to move.

    Misses first trade places among themselves, rotated by the largest class among them. Those
    left are of one class, and trade places with hits that involve that class on neither side;
    when no such hit is left, the remaining misses cannot be avoided.
    """
    common = min(len(targets), len(previous))
    previous = previous[:common].to(targets.device)
    missed = (targets[:common] == previous).nonzero().flatten()
    if len(missed) == 0:
        return None
    order = torch.arange(len(targets), device=targets.device)
    missed = missed[targets[missed].argsort(stable=True)]
    kinds, counts = targets[missed].unique_consecutive(return_counts=True)
    order[missed] = missed.roll(-int(counts.max()))

    major = kinds[counts.argmax()]
    moved = targets[order]
    left = ((moved[:common] == previous) & (previous == major)).nonzero().flatten()
    if len(left):
        free = moved != major
        free[:common] &= previous != major
        partners = free.nonzero().flatten()[: len(left)]
        left = left[: len(partners)]
        order[left], order[partners] = order[partners], order[left]
    return order
