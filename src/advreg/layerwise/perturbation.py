"""A site's one pass over its activation in the forward pass."""

from __future__ import annotations

from torch import Tensor

from advreg.layerwise.memory import Stored
from advreg.layerwise.signs import Signs


def add_direction(
    activation: Tensor,
    stored: Stored | None,
    scale: Tensor | float,
    rows: int,
    limits: tuple[float, float] | None = None,
) -> Tensor:
    """A new tensor: the activation plus `scale` times what is stored for its first rows.

    Args:
        activation: Any shape, with B rows in dimension `rows`.
        stored: The same shape with n <= B rows; None is all zero.
        scale: A number or a float32 scalar.
        rows: The dimension that counts examples.
        limits: The range that the sum is clamped to.
    """
    if isinstance(stored, Signs):
        return stored.add_to(activation, scale, limits)
    perturbed = _sum(activation, stored, scale, rows)
    return perturbed if limits is None else perturbed.clamp_(*limits)


def _sum(activation: Tensor, stored: Tensor | None, scale: Tensor | float, rows: int) -> Tensor:
    if stored is None or stored.shape[rows] == 0:
        return activation.clone()
    step = stored.to(activation.dtype) * scale
    if stored.shape == activation.shape:
        return activation + step.to(activation.dtype)
    perturbed = activation.clone()
    perturbed.narrow(rows, 0, stored.shape[rows]).add_(step)
    return perturbed
