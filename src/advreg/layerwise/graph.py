"""A site's operations as a compiler takes them into its graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advreg.layerwise.doors import Door
from advreg.layerwise.operators import EIGHT, Flat
from advreg.layerwise.planes import Planes, pack_rows, unpack_rows

Limits = tuple[float, float]


def add(
    activation: Tensor,
    door: Door,
    stored: Planes | Flat,
    scale: Tensor,
    rows: int,
    limits: Limits | None,
) -> Tensor:
    """The perturbed activation; what comes back to it goes out by the door.

    Args:
        activation: Any shape, with B rows in dimension `rows`.
        door: Where the new S goes.
        stored: S, of at least B rows.
        scale: A scalar.
        rows: The dimension that counts examples.
        limits: The range that the sum is clamped to.
    """
    form = isinstance(stored, Planes), rows, stored.shape[rows]
    # Recomputed in the backward pass from the activation, which the layer before keeps anyway.
    result: Tensor = checkpoint(
        _Perturbed.apply,
        *(activation, door.codes, door.counts, stored.codes, scale, *form, limits),
        use_reentrant=False,
        preserve_rng_state=False,
    )
    return result


def add_within(
    activation: Tensor, door: Door, stored: Planes | Flat, scale: Tensor, rows: int, limits: Limits
) -> Tensor:
    """As `add`, for an activation that is to get the clamp's own gradient."""
    form = isinstance(stored, Planes), rows, stored.shape[rows]
    step = _sum(torch.zeros_like(activation), stored.codes, scale, *form, None)
    perturbed = (activation + step).clamp(*limits)
    result: Tensor = _Through.apply(perturbed, door.codes, door.counts, *form)
    return result


def _sum(
    activation: Tensor,
    codes: Tensor,
    scale: Tensor,
    fused: bool,
    rows: int,
    capacity: int,
    limits: Limits | None,
) -> Tensor:
    if not fused:
        low, high = limits or (-float("inf"), float("inf"))
        summed: Tensor = torch.ops.advreg.add(activation, codes, scale, rows, capacity, low, high)
        return summed
    step = unpack_rows(codes, rows, activation.shape[rows], activation.dtype) * scale
    perturbed = activation + step.to(activation.dtype)
    return perturbed if limits is None else perturbed.clamp(*limits)


def _answer(
    gradient: Tensor, activation: Tensor | None, fused: bool, rows: int, capacity: int
) -> tuple[Tensor, Tensor | None]:
    """The gradients of a door's codes and counts."""
    if not fused:
        return torch.ops.advreg.sign(gradient, activation, rows, capacity), None
    missing = 4 * -(-capacity // 4) - gradient.shape[rows]
    if missing > 3:  # a smaller mini-batch, whose missing rows are forgotten
        gradient = F.pad(gradient, [0, 0] * (gradient.dim() - rows - 1) + [0, missing])
    codes, bad = pack_rows(gradient, rows)
    return codes.view(EIGHT), torch.stack([torch.ones_like(bad), bad])


class _Perturbed(torch.autograd.Function):
    """Adds the stored direction; hands the gradient on and its signs out."""

    @staticmethod
    def forward(
        ctx: Any,
        activation: Tensor,
        door: Tensor,
        counts: Tensor | None,
        codes: Tensor,
        scale: Tensor,
        fused: bool,
        rows: int,
        capacity: int,
        limits: Limits | None,
    ) -> Tensor:
        ctx.form = fused, rows, capacity
        # What an operator needs in the backward pass is saved and not computed again: without
        # this a compiler would go back to the convolution before for the recomputed sum.
        ctx.save_for_backward(*[] if fused else [activation])
        return _sum(activation, codes, scale, fused, rows, capacity, limits)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        answer = _answer(gradients[0], *ctx.saved_tensors or [None], *ctx.form)
        return gradients[0], *answer, None, None, None, None, None, None


class _Through(torch.autograd.Function):
    """Hands an activation on, its gradient too, and the gradient's signs out."""

    @staticmethod
    def forward(
        ctx: Any,
        activation: Tensor,
        door: Tensor,
        counts: Tensor | None,
        fused: bool,
        rows: int,
        capacity: int,
    ) -> Tensor:
        ctx.form = fused, rows, capacity
        ctx.save_for_backward(*[] if fused else [activation])
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        answer = _answer(gradients[0], *ctx.saved_tensors or [None], *ctx.form)
        return gradients[0], *answer, None, None, None
