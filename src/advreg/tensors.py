"""Arithmetic example by example, and in half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
"""Types whose rounding is as large as the budgets of attacks."""


def precision(tensor: Tensor) -> torch.dtype:
    """The tensor's type, or float32 where that is less."""
    return torch.promote_types(tensor.dtype, torch.float32)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in at least float32."""
    return tensor.to(precision(tensor))


def rows(tensor: Tensor) -> Tensor:
    """(B, ...) as (B, N), in at least float32."""
    return wide(tensor).reshape(len(tensor), -1)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values in the shape that multiplies the examples of `like`, (B, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def finite(gradient: Tensor) -> Tensor:
    """The gradient with zeros where it is not finite."""
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def perturbed(
    inputs: Tensor, delta: Tensor, input_range: tuple[float, float] | None = None
) -> Tensor:
    """Inputs moved by a perturbation, within their range and in their own type.

    In half precision the sum is rounded towards the inputs where it would otherwise be farther
    from them than the perturbation: the spacing of bfloat16 below 1 is 1/256, so that rounding to
    the nearest oversteps 1/255 by half.

    Args:
        inputs: (B, ...) floating point.
        delta: (B, ...), best in float32 where the inputs are in half precision.
        input_range: What the result is clamped into; None for no limits.
    """
    moved = inputs + delta if inputs.dtype not in HALVES else wide(inputs) + wide(delta)
    if input_range is not None:
        moved = moved.clamp(*input_range)
    return round_towards(inputs, moved)


def round_towards(anchor: Tensor, values: Tensor) -> Tensor:
    """Values in the anchor's type, rounded such that they are not farther from the anchor.

    Args:
        anchor: Any shape.
        values: The same shape, in float32 where the anchor is in half precision.
    """
    if anchor.dtype not in HALVES:
        return values.to(anchor.dtype)
    nearest = values.to(anchor.dtype)
    beyond = (wide(nearest) - wide(anchor)).abs() > (wide(values) - wide(anchor)).abs()
    # One step of the format: the bits are sign and magnitude, and not every device has nextafter.
    shrinks = (nearest > anchor) == (nearest > 0)
    stepped = (nearest.view(torch.int16) + torch.where(shrinks, -1, 1).to(torch.int16)).view(
        anchor.dtype
    )
    stepped = torch.where(nearest == 0, anchor, stepped)
    return torch.where(beyond, stepped, nearest)


def is_finite(state: Any) -> bool:
    """Whether every number in the tensors of nested mappings and sequences is finite."""
    if isinstance(state, Tensor):
        return not state.is_floating_point() or bool(state.isfinite().all())
    if isinstance(state, dict):
        return all(map(is_finite, state.values()))
    return not isinstance(state, (list, tuple)) or all(map(is_finite, state))
