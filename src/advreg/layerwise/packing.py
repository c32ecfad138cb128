"""The format of packed signs in plain torch operations; `kernels.cpp` has the fast twins.

A chunk of m values takes ceil(m / 4) bytes, two bits a value: 0, 1, or 3 for -1. The chunk is cut
into blocks of 256 values, the last one shorter; byte j of a block of n values holds the values
j, j + w, j + 2w and j + 3w, w = ceil(n / 4), from its lowest bits up. So a vector unit reads and
writes whole runs of values, and each value's bits lie near the value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256


def pack(values: Tensor) -> tuple[Tensor, Tensor]:
    """Packs the signs of numbers; what is not finite counts as zero.

    Args:
        values: (n, m) of a floating type, a chunk a row.

    Returns:
        The codes, (n, ceil(m / 4)) uint8, and how many values were not finite, a scalar.
    """
    chunks, size = values.shape
    whole = size // BLOCK
    blocks = values[:, : whole * BLOCK].reshape(chunks, whole, 4, BLOCK // 4)
    if size == whole * BLOCK:
        return _fold(blocks)
    tail = F.pad(values[:, whole * BLOCK :], (0, -size % 4))
    codes, bad = _fold(tail.reshape(chunks, 1, 4, tail.shape[1] // 4))
    if whole == 0:
        return codes, bad
    first, worse = _fold(blocks)
    return torch.cat([first, codes], dim=1), worse + bad


def unpack(codes: Tensor, size: int, dtype: torch.dtype = torch.int8) -> Tensor:
    """What `pack` has packed.

    Args:
        codes: (n, ceil(m / 4)) uint8.
        size: m.
        dtype: Of the result.

    Returns:
        (n, m), in {-1, 0, 1}.
    """
    chunks, whole = len(codes), size // BLOCK
    cut = whole * BLOCK // 4
    blocks = codes[:, :cut].reshape(chunks, whole, 1, BLOCK // 4)
    if size == whole * BLOCK:
        return _unfold(blocks, dtype)
    tail = _unfold(codes[:, cut:].reshape(chunks, 1, 1, codes.shape[1] - cut), dtype)
    values = tail if whole == 0 else torch.cat([_unfold(blocks, dtype), tail], dim=1)
    return values[:, :size]


def _fold(values: Tensor) -> tuple[Tensor, Tensor]:
    finite = values.abs() <= torch.finfo(values.dtype).max
    code = torch.where(values > 0, 1.0, torch.where(values < 0, 3.0, 0.0))
    first, second, third, fourth = torch.where(finite, code, 0.0).unbind(2)
    codes = first + 4 * second + 16 * third + 64 * fourth
    return codes.to(torch.uint8).flatten(1), (~finite).sum()


def _unfold(codes: Tensor, dtype: torch.dtype) -> Tensor:
    # Shifting a value's two bits to the top of a signed byte and back extends their sign.
    shifts = torch.arange(6, -2, -2, dtype=torch.uint8, device=codes.device)
    return ((codes << shifts[:, None]).view(torch.int8) >> 6).to(dtype).flatten(1)
