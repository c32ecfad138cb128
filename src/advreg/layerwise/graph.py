"""A site's operations as a compiler takes them into its graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advreg.layerwise import planes
from advreg.layerwise.doors import Door
from advreg.layerwise.operators import sign
from advreg.layerwise.planes import Planes, carrier, pack_rows, unpack_rows


def add(
    activation: Tensor,
    door: Door,
    stored: Planes,
    scale: Tensor,
    rows: int,
    limits: tuple[float, float] | None,
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

    def perturb(activation: Tensor) -> Tensor:
        step = unpack_rows(stored.codes, activation.shape, rows, activation.dtype) * scale
        perturbed = activation + step.to(activation.dtype)
        if limits is not None:
            perturbed = perturbed.clamp(*limits)
        recorded: Tensor = _Record.apply(perturbed, door.codes, door.counts, rows, capacity)
        return recorded

    capacity = stored.shape[rows]
    # Computed again in the backward pass, from what the layer before keeps anyway.
    result: Tensor = checkpoint(perturb, activation, use_reentrant=False, preserve_rng_state=False)
    return result


class _Record(torch.autograd.Function):
    """Hands an activation on, its gradient too, and the gradient's signs out."""

    @staticmethod
    def forward(
        ctx: Any, activation: Tensor, codes: Tensor, counts: Tensor, rows: int, capacity: int
    ) -> Tensor:
        ctx.form = rows, capacity
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient, form = gradients[0], ctx.form
        if planes.packs_by_operator(gradient.device):
            return gradient, *sign(gradient, *form), None, None
        codes, counts = pack_rows(gradient, *form)
        return gradient, carrier(codes), counts, None, None
