"""Ternary memories in the form that compilers make good code of.

A word holds the values of N examples at one place: of rows q, q + Q, q + 2Q and so on, Q being an
Nth of the rows, rounded up. The words lie in the order in which compilers keep activations: the
rows outermost, and of feature maps the channels innermost. So value number i of an activation's
memory is in word i modulo the number of words: one running index, from which a compiler makes the
same loop as for the layer before, with whole vectors of words.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from advreg.layerwise.signs import Signs, inverse

_CARRIERS = {torch.int32: torch.float32, torch.uint8: torch.float8_e4m3fn}
"""Types of a word's size whose tensors may require gradients. Without code 3 no word is a NaN, of
which anomaly detection would complain."""
_INFINITY = 0x7F800000
"""The bits of float32's."""


class Planes:
    """Values in {-1, 0, 1} of a tensor, of several rows in a word.

    Attributes:
        codes: The words, in a single dimension.
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
        """The same values in this form."""
        codes, _ = pack_rows(signs.values().float(), signs.rows, signs.shape[signs.rows])
        return cls(codes, signs.shape, signs.rows)

    @classmethod
    def received(cls, carrier: Tensor, shape: tuple[int, ...], rows: int) -> Planes:
        """What compiled code has packed and handed out as a carrier."""
        # On a GPU the compiler may use the memory again.
        codes = carrier.clone() if carrier.is_cuda else carrier
        return cls(codes.view(word_of(codes.device)), shape, rows)

    def signs(self) -> Signs:
        """The same values in the form of eager code."""
        return Signs.of(unpack_rows(self.codes, self.shape, self.rows), self.rows)


def carrier(codes: Tensor) -> Tensor:
    """Codes in the type in which compiled code hands them out."""
    return codes.view(_CARRIERS[codes.dtype])


def word_of(device: torch.device) -> torch.dtype:
    """The type of a device's words: a CPU reads full words best, a GPU moves fewer bytes."""
    return torch.int32 if device.type == "cpu" else torch.uint8


def pack_rows(values: Tensor, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
    """Packs the signs of numbers; what is not finite counts as zero.

    Args:
        values: Of a floating type, with B <= `capacity` rows in dimension `rows`.
        rows: The dimension that counts examples.
        capacity: How many rows to pack; those that are missing count as zero.

    Returns:
        The codes, and a scalar: how many values were not finite.
    """
    word = word_of(values.device)
    finite = values.abs() <= torch.finfo(values.dtype).max
    if values.dtype == torch.float64:
        values = torch.where(finite, values.sign(), 0.0)  # which float32 holds
    flat = in_order(values, rows).flatten().float()
    count, size = _per(word), words_for(values.shape, rows, capacity, word)
    if flat.numel() < count * size:
        flat = F.pad(flat, [0, count * size - flat.numel()])
    # Bits as integers make short vector code: 1 for positive, 2 for negative.
    bits = flat.view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    kept = (magnitude > 0) & (magnitude < _INFINITY)
    parts = torch.where(kept, 1 - (bits >> 31), 0).view(count, size)
    codes = parts[0]
    for number in range(1, count):
        codes = codes | (parts[number] << (2 * number))
    return codes.to(word), torch.where(finite, 0.0, 1.0).sum()


def unpack_rows(
    codes: Tensor, shape: tuple[int, ...], rows: int, dtype: torch.dtype = torch.int8
) -> Tensor:
    """The first rows of what `pack_rows` has packed, in {-1, 0, 1}.

    Args:
        codes: Of a tensor that has no fewer rows.
        shape: Of the tensor to return.
        rows: The dimension that counts examples.
        dtype: The type to return.
    """
    # Shifting a value's two bits to the top of a word and back extends their sign: 1, -2 or 0.
    # Compilers hold that cheap enough to be done again in the backward pass.
    last = 30 - 2 * _per(codes.dtype)
    shifts = torch.arange(30, last, -2, dtype=torch.int32, device=codes.device)
    values = (codes.to(torch.int32) << shifts.unsqueeze(1)) >> 30
    flat = values.clamp(min=-1).to(dtype).flatten()[: math.prod(shape)]
    order = _order(len(shape), rows)
    return flat.view([shape[dim] for dim in order]).permute(inverse(order))


def words_for(shape: tuple[int, ...], rows: int, capacity: int, word: torch.dtype) -> int:
    """How many words hold `capacity` rows of tensors of a shape."""
    inner = math.prod(shape[:rows]) * math.prod(shape[rows + 1 :])
    return -(-capacity // _per(word)) * inner


def _per(word: torch.dtype) -> int:
    """Values in a word."""
    return 4 * word.itemsize


def in_order(tensor: Tensor, rows: int) -> Tensor:
    """A view whose dimensions are in the words' order."""
    return tensor.permute(_order(tensor.dim(), rows))


def _order(dims: int, rows: int) -> tuple[int, ...]:
    """The dimensions from the outermost to the innermost."""
    others = [dim for dim in range(dims) if dim != rows]
    if dims == 4:
        others = [*others[1:], others[0]]
    return rows, *others
