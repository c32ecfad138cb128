"""From a gradient to the direction that a memory keeps."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from advreg.errors import ConfigurationError

Direction = Literal["sign", "l2", "max", "random"]
DIRECTIONS: tuple[str, ...] = get_args(Direction)


def direction(gradient: Tensor, kind: Direction = "sign", rows: int = 0) -> Tensor:
    """The direction of a loss gradient, with zeros where the gradient is not finite.

    Args:
        gradient: (..., B, ...) of any floating type; neither its scale nor its units matter.
        kind: `sign` (the sign of zero is zero); `l2`, each example divided by its L2 norm and
            multiplied by the square root of its size; `max`, each example divided by its
            largest magnitude.
        rows: The dimension that counts examples.

    Returns:
        The gradient's shape: int8 in {-1, 0, 1} for `sign`, else floating.

    Raises:
        ConfigurationError: The kind is none of these.
    """
    finite = torch.where(gradient.isfinite(), gradient, 0)
    if kind == "sign":
        return finite.sign().to(torch.int8)
    if kind not in ("l2", "max"):
        raise ConfigurationError(f"direction is {kind!r}; choose one of {', '.join(DIRECTIONS)}.")
    if finite.dtype in (torch.float16, torch.bfloat16):
        finite = finite.float()
    within = [dim for dim in range(finite.dim()) if dim != rows]
    peak = finite.abs().amax(within, keepdim=True) if within else finite.abs()
    # Dividing by the peak first keeps the squares of tiny, loss-scaled gradients from vanishing.
    unit = torch.where(peak > 0, finite / peak, 0)
    if kind == "max":
        return unit
    size = finite.numel() // max(finite.shape[rows], 1)
    norm = unit.square().sum(within, keepdim=True).sqrt() if within else unit.abs()
    return torch.where(norm > 0, unit / norm * size**0.5, 0)


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Fair signs, int8 in {-1, 1}, of the shape and memory layout of `like`."""
    signs = torch.empty_like(like, dtype=torch.int8)
    return signs.random_(0, 2, generator=generator).mul_(2).sub_(1)
