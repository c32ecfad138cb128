"""Whose row of a memory an example has: of another class, or for controls of the same."""

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


def alike_order(targets: Tensor, previous: Tensor) -> Tensor:
    """The opposite of `pairing_order`, a control: positions keep the class that they held.

    Args:
        targets: (B,) integer targets of the mini-batch.
        previous: (B',) those of the previous one, by position.

    Returns:
        (B,) int64, the order of the mini-batch in which as many positions as possible, of each
        class the smaller of both its numbers, hold a class again.
    """
    held = previous[: len(targets)].to(targets.device)
    order = torch.full_like(targets, -1, dtype=torch.int64)
    for kind in held.unique():
        places, examples = (held == kind).nonzero()[:, 0], (targets == kind).nonzero()[:, 0]
        count = min(len(places), len(examples))
        order[places[:count]] = examples[:count]
    left = torch.ones_like(targets, dtype=torch.bool)
    left[order[order >= 0]] = False
    order[order < 0] = left.nonzero()[:, 0]
    return order


def exchange_order(targets: Tensor, within: bool) -> Tensor:
    """Whose row each example has where a mini-batch exchanges its examples' rows, a control.

    The order of a mini-batch is random, and all that is: neighbours of a class trade places.

    Args:
        targets: (B,) integer targets.
        within: Whether rows stay in their class; else they leave it, but for the misses of `pair`.

    Returns:
        (B,) int64, a permutation; an example that is alone keeps its own row.
    """
    order = torch.arange(len(targets), device=targets.device)
    if within:
        for kind in targets.unique():
            members = (targets == kind).nonzero()[:, 0]
            order[members] = members.roll(1)
        return order
    # In the order in which they come, so that no class always has the rows of the same one.
    place = {kind: index for index, kind in enumerate(dict.fromkeys(targets.tolist()))}
    kinds = torch.tensor([place[kind] for kind in targets.tolist()], device=targets.device)
    found = pairing_order(kinds, kinds)
    return order if found is None else found
