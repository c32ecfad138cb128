"""Targets that fit what a network returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from advreg.errors import DataError

IGNORED = -100
"""The class of positions that torch's cross entropy leaves out."""

examines: ContextVar[bool] = ContextVar("examines", default=True)


@contextmanager
def unexamined() -> Iterator[None]:
    """Within it the values of targets are taken to be right; their types and shapes are not.

    A look at values waits for an accelerator, which a training step should not do every time.
    """
    before = examines.set(False)
    try:
        yield
    finally:
        examines.reset(before)


def as_classes(outputs: Tensor, targets: Tensor, ignored: int) -> Tensor:
    """(B, ...) int64 classes, or (B, K, ...) probabilities, for categorical outputs."""
    if outputs.ndim < 2:
        raise DataError(
            f"The network returns {tuple(outputs.shape)}; give one that returns a logit for each"
            " class, (B, K)."
        )
    positions = (len(outputs), *outputs.shape[2:])
    if targets.shape == outputs.shape and outputs.shape[1] > 1:
        if examines.get() and not sums_to_one(targets):
            raise DataError(
                f"The targets, {tuple(targets.shape)}, do not sum to one over the classes; give"
                " class indices or probabilities, or for several labels an example use"
                " nn.BCEWithLogitsLoss."
            )
        return targets if targets.is_floating_point() else targets.long().argmax(1)
    if targets.shape == (len(outputs), 1, *outputs.shape[2:]):
        targets = targets.squeeze(1)
    if targets.shape != positions:
        raise DataError(
            f"The network returns {tuple(outputs.shape)} and the targets are"
            f" {tuple(targets.shape)}; give a class for each example and position, {positions},"
            " the logits' classes along dimension 1."
        )
    if targets.is_floating_point() or targets.is_complex():
        raise DataError(
            f"The targets are {targets.dtype} of shape {tuple(targets.shape)}; give classes as"
            " integers, or probabilities in the outputs' shape."
        )
    targets = targets.long()
    wrong = (targets != ignored) & ((targets < 0) | (targets >= outputs.shape[1]))
    if examines.get() and bool(wrong.any()):
        raise DataError(
            f"A target is {int(targets[wrong][0])} but the network tells {outputs.shape[1]}"
            " classes apart, counted from 0; give it the targets that it was made for."
        )
    return targets


def shaped_like(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets in the outputs' shape, which losses would otherwise broadcast to B times B."""
    if targets.shape == outputs.shape and not targets.is_complex():
        return targets
    without = (len(outputs), *outputs.shape[2:])
    shapes = {without, (without[0], 1, *without[1:])}
    if not has_one_logit(outputs) or targets.shape not in shapes or targets.is_complex():
        raise DataError(
            f"The network returns {tuple(outputs.shape)} and the targets are"
            f" {tuple(targets.shape)}; give one target for each logit."
        )
    return targets.reshape(outputs.shape)


def has_one_logit(outputs: Tensor) -> bool:
    """Whether there is one logit an example or position: (B,), (B, 1), (B, 1, ...)."""
    return outputs.ndim == 1 or outputs.shape[1] == 1


def are_shares(targets: Tensor) -> bool:
    """Whether all targets lie in [0, 1]."""
    return bool(((targets >= 0) & (targets <= 1)).all())


def sums_to_one(targets: Tensor) -> bool:
    """Whether (B, K, ...) targets are probabilities over the classes."""
    # Probabilities in half precision sum to one within half a percent.
    return are_shares(targets) and bool(((targets.double().sum(1) - 1).abs() < 0.01).all())
