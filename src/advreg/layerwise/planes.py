"""Ternary memories in the form that compilers make good code of.

Here a byte holds the values of four examples at one place: of rows q, q + Q, q + 2Q and q + 3Q,
Q being a quarter of the rows. So packing is a matter of whole rows, whatever order of the other
dimensions the compiler chooses, and its vectors run along that order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from advreg.layerwise.signs import Signs

EIGHT = torch.float8_e4m3fn
"""A type of one byte whose tensors may require gradients."""


class Planes:
    """Values in {-1, 0, 1} of a tensor, of four rows in a byte.

    Attributes:
        codes: uint8, the tensor's shape with a quarter of its rows, rounded up.
        shape: Of the tensor.
        rows: The dimension that counts examples.
    """

    def __init__(self, codes: Tensor, shape: tuple[int, ...], rows: int) -> None:
        self.codes, self.shape, self.rows = codes, shape, rows

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    @classmethod
    def of(cls, signs: Signs) -> Planes:
        """The same values in this form; feature maps with their channels innermost."""
        packed, _ = pack_rows(signs.values().float(), signs.rows, signs.shape[signs.rows])
        codes = empty_codes(packed, signs.rows, signs.shape[signs.rows])
        return cls(codes.copy_(packed), signs.shape, signs.rows)

    @classmethod
    def made(cls, codes: Tensor, shape: tuple[int, ...], rows: int) -> Planes:
        """What compiled code has packed."""
        # Copied where the compiler may use the memory again, or has chosen another layout.
        layout = _layout(codes)
        if codes.is_cuda:
            return cls(codes.clone(memory_format=layout), shape, rows)
        return cls(codes.contiguous(memory_format=layout), shape, rows)

    def signs(self) -> Signs:
        """The same values in the form of eager code."""
        return Signs.of(unpack_rows(self.codes, self.rows, self.shape[self.rows]), self.rows)


def empty_codes(like: Tensor, rows: int, capacity: int) -> Tensor:
    """Uninitialised codes of `capacity` rows for tensors like this one."""
    shape = (*like.shape[:rows], -(-capacity // 4), *like.shape[rows + 1 :])
    return torch.empty(shape, dtype=torch.uint8, device=like.device, memory_format=_layout(like))


def _layout(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.contiguous_format


def pack_rows(values: Tensor, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
    """Packs the signs of numbers; what is not finite counts as zero.

    Args:
        values: Of a floating type, with B <= `capacity` rows in dimension `rows`.
        rows: The dimension that counts examples.
        capacity: How many rows to pack; those that are missing count as zero.

    Returns:
        The codes, uint8 with ceil(capacity / 4) rows, and a scalar: how many values were not
        finite.
    """
    missing = 4 * -(-capacity // 4) - values.shape[rows]
    if missing:
        values = F.pad(values, [0, 0] * (values.dim() - rows - 1) + [0, missing])
    # In 32-bit arithmetic and without a stack, which compilers make vectors of.
    finite = values.abs() <= torch.finfo(values.dtype).max
    code = torch.where(values > 0, 1.0, torch.where(values < 0, 3.0, 0.0))
    first, second, third, fourth = torch.where(finite, code, 0.0).chunk(4, rows)
    codes = first + 4 * second + 16 * third + 64 * fourth
    one, two, three, four = torch.where(finite, 0.0, 1.0).chunk(4, rows)
    return codes.to(torch.int32).to(torch.uint8), (one + two + three + four).sum()


def unpack_rows(codes: Tensor, rows: int, count: int, dtype: torch.dtype = torch.int8) -> Tensor:
    """The first `count` rows of what `pack_rows` has packed, in {-1, 0, 1}."""
    # Shifting a value's two bits to the top of a word and back extends their sign; compilers hold
    # shifts cheap enough to be done again in the backward pass.
    shifts = torch.arange(30, 22, -2, dtype=torch.int32, device=codes.device)
    shifts = shifts.view(4, *[1] * (codes.dim() - rows))
    values = (codes.to(torch.int32).unsqueeze(rows) << shifts) >> 30
    return values.to(dtype).flatten(rows, rows + 1).narrow(rows, 0, count)
