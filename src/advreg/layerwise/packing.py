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


def pack(signs: Tensor) -> Tensor:
    """Packs ternary values.

    Args:
        signs: (n, m) int8 in {-1, 0, 1}, a chunk a row.

    Returns:
        (n, ceil(m / 4)) uint8.
    """
    chunks, size = signs.shape
    whole = size // BLOCK
    bits = signs.contiguous().view(torch.uint8) & 3
    tail = F.pad(bits[:, whole * BLOCK :], (0, -size % 4))
    parts = (
        bits[:, : whole * BLOCK].reshape(chunks, whole, 4, BLOCK // 4),
        tail.reshape(chunks, 1, 4, tail.shape[1] // 4),
    )
    return torch.cat([_fold(part) for part in parts], dim=1)


def unpack(codes: Tensor, size: int) -> Tensor:
    """What `pack` has packed.

    Args:
        codes: (n, ceil(m / 4)) uint8.
        size: m.

    Returns:
        (n, m) int8.
    """
    chunks, whole = len(codes), size // BLOCK
    cut = whole * BLOCK // 4
    parts = (
        codes[:, :cut].reshape(chunks, whole, BLOCK // 4),
        codes[:, cut:].reshape(chunks, 1, codes.shape[1] - cut),
    )
    return torch.cat([_unfold(part) for part in parts], dim=1)[:, :size]


def _fold(bits: Tensor) -> Tensor:
    first, second, third, fourth = bits.unbind(2)
    return (first | second << 2 | third << 4 | fourth << 6).flatten(1)


def _unfold(codes: Tensor) -> Tensor:
    # Shifting a value's two bits to the top of a signed byte and back extends their sign.
    values = [(codes << (6 - 2 * place)).view(torch.int8) >> 6 for place in range(4)]
    return torch.stack(values, dim=2).flatten(1)
