"""What the operators compute, in plain torch: slow and obvious, and what compilers fuse."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from advreg.layerwise.kernels.layout import (
    Order,
    form,
    inverse,
    unit_of,
    values_per_word,
    word_of,
)

_INFINITY = 0x7F800000
"""The bits of float32's."""


def add_signs(
    activation: Tensor,
    codes: Tensor,
    rms: Tensor | None,
    epsilon: float,
    order: Order,
    low: float,
    high: float,
) -> Tensor:
    """See `operators.add_signs`."""
    signs = unpack(codes, activation.shape, order, activation.dtype)
    perturbed = activation + signs * _scale(rms, epsilon, activation.dtype)
    return perturbed if (low, high) == (-math.inf, math.inf) else perturbed.clamp(low, high)


def _scale(rms: Tensor | None, epsilon: float, dtype: torch.dtype) -> Tensor | float:
    """The factor on the signs; finite, since zero times infinity would be NaN."""
    limit = torch.finfo(dtype).max
    if rms is None:
        return max(-limit, min(epsilon, limit))
    limit = min(limit, torch.finfo(rms.dtype).max)
    return (rms * epsilon).clamp(-limit, limit).to(dtype)


def pack_signs(gradient: Tensor, order: Order, words: int, groups: int) -> tuple[Tensor, Tensor]:
    """See `operators.pack_signs`."""
    word = word_of(gradient.device)
    per = values_per_word(word)
    _, used, size = form(gradient.shape, gradient.stride(), order, groups, per * words)
    finite = gradient.abs() <= torch.finfo(gradient.dtype).max
    if gradient.dtype == torch.float64:
        gradient = torch.where(finite, gradient.sign(), 0.0)  # which float32 holds
    values = gradient.permute(order).reshape(used, size).float()
    # torch 2.8 pads no dimension without elements, not even by nothing.
    padding = [0, per * words - size] + ([0, groups - used] if groups else [])
    values = F.pad(values, padding)
    # Bits as integers make short vector code: 1 for positive, 2 for negative, so that no word is
    # a NaN, of which anomaly detection would complain.
    bits = values.view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    kept = (magnitude > 0) & (magnitude < _INFINITY)
    parts = torch.where(kept, 1 - (bits >> 31), 0).view(groups, per, words)
    codes = parts[:, 0]
    for number in range(1, per):
        codes = codes | (parts[:, number] << (2 * number))
    bad = torch.where(finite, 0.0, 1.0).sum()
    any_at_all = ((bad > 0) | (codes != 0).any()).float()
    codes = codes.contiguous().view(word) if word == torch.float32 else codes.to(word)
    return codes, torch.stack([torch.ones_like(bad), bad, any_at_all])


def unpack(
    codes: Tensor, shape: torch.Size | tuple[int, ...], order: Order, dtype: torch.dtype
) -> Tensor:
    """The first rows of what `pack_signs` has packed, in {-1, 0, 1}.

    Args:
        codes: (groups, words), of either type of words.
        shape: Of the tensor to return.
        order: In which it was read.
        dtype: The type to return.
    """
    # Shifting a value's two bits to the top of a word and back extends their sign: 1, -2 or 0.
    # Compilers hold that cheap enough to be done again in the backward pass.
    groups, words = codes.shape
    per = values_per_word(codes.dtype)
    _, used, size = form(shape, shape, order, groups, per * words)
    unit = unit_of(shape, order)
    if words % unit or size % unit:
        unit = 1
    numbers = codes.view(torch.int32) if codes.dtype == torch.float32 else codes.to(torch.int32)
    shifts = torch.arange(30, 30 - 2 * per, -2, dtype=torch.int32, device=codes.device)
    values = (numbers.view(groups, 1, words // unit, unit) << shifts.view(-1, 1, 1)) >> 30
    flat = values.clamp(min=-1).to(dtype).view(groups, per * words // unit, unit)
    return (
        flat[:used, : size // unit].reshape([shape[dim] for dim in order]).permute(inverse(order))
    )
