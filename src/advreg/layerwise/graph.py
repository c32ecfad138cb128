"""A site's operations as a compiler takes them into its graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advreg.layerwise.planes import pack_rows, unpack_rows

EIGHT = torch.float8_e4m3fn
"""A type of one byte whose tensors may require gradients."""


def add(
    activation: Tensor,
    answers: tuple[Tensor, Tensor],
    codes: Tensor,
    scale: Tensor,
    rows: int,
    limits: tuple[float, float] | None,
) -> Tensor:
    """The perturbed activation; what comes back to it goes out.

    Args:
        activation: Any shape, with B rows in dimension `rows`.
        answers: Leaves; the gradient of the first is the new S, packed by rows as `EIGHT`, that
            of the second has a one and the number of values that were not finite.
        codes: S, packed by rows.
        scale: A scalar.
        rows: The dimension that counts examples.
        limits: The range that the sum is clamped to.
    """
    # Recomputed in the backward pass from the activation, which the layer before keeps anyway.
    result: Tensor = checkpoint(
        _Perturbed.apply,
        *(activation, *answers, codes, scale, rows, limits),
        use_reentrant=False,
        preserve_rng_state=False,
    )
    return result


def hand_on(activation: Tensor, answers: tuple[Tensor, Tensor], rows: int) -> Tensor:
    """The activation itself; what comes back to it goes out as in `add`."""
    result: Tensor = _Through.apply(activation, *answers, rows)
    return result


def _answer(gradient: Tensor, rows: int, quarter: int) -> tuple[Tensor, Tensor]:
    """The gradients of a door's codes and counts."""
    missing = 4 * quarter - gradient.shape[rows]
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
        counts: Tensor,
        codes: Tensor,
        scale: Tensor,
        rows: int,
        limits: tuple[float, float] | None,
    ) -> Tensor:
        ctx.rows, ctx.quarter = rows, door.shape[rows]
        step = unpack_rows(codes, rows, activation.shape[rows], activation.dtype) * scale
        perturbed = activation + step.to(activation.dtype)
        return perturbed if limits is None else perturbed.clamp(*limits)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        answer = _answer(gradients[0], ctx.rows, ctx.quarter)
        return gradients[0], *answer, None, None, None, None


class _Through(torch.autograd.Function):
    """Hands an activation on, its gradient too, and the gradient's signs out."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, door: Tensor, counts: Tensor, rows: int) -> Tensor:
        ctx.rows, ctx.quarter = rows, door.shape[rows]
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], *_answer(gradients[0], ctx.rows, ctx.quarter), None
