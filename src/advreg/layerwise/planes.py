"""Ternary memories in the form that compilers make good code of.

A word holds N values, each two bits: those of the places j, j + M, j + 2M and so on of the tensor's
memory, M being the number of words. Memory is taken in the order in which compilers keep
activations: the rows outermost, and of feature maps the channels innermost. So a vector of words
serves a vector of values, and place i is in word i modulo M: a running index, from which a compiler
makes the same loop as for the layer before.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from advreg.layerwise.signs import Signs, inverse

EIGHT = torch.float8_e4m3fn
"""A type of one byte whose tensors may require gradients."""
_INFINITY = 0x7F800000
"""The bits of float32's."""


class Planes:
    """Values in {-1, 0, 1} of a tensor, packed to words.

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
        return cls(carrier.view(torch.uint8) if carrier.dtype == EIGHT else carrier, shape, rows)

    def signs(self) -> Signs:
        """The same values in the form of eager code."""
        return Signs.of(unpack_rows(self.codes, self.shape, self.rows), self.rows)


def carrier(codes: Tensor) -> Tensor:
    """Codes in a type whose tensors may require gradients; none of its numbers is a NaN."""
    return codes if codes.dtype == torch.float32 else codes.view(EIGHT)


def packs_by_operator(device: torch.device) -> bool:
    """Whether an operator of ours packs the signs; else it is left to the compiler's own code."""
    return device.type == "cpu"


def word_of(device: torch.device) -> torch.dtype:
    """The type of a device's words.

    A CPU reads full words best, and its compiler loads vectors of float32 better than of integers;
    a GPU moves fewer bytes with small words.
    """
    return torch.float32 if packs_by_operator(device) else torch.uint8


def pack_rows(values: Tensor, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
    """Packs the signs of numbers; what is not finite counts as zero.

    Args:
        values: Of a floating type, with B <= `capacity` rows in dimension `rows`.
        rows: The dimension that counts examples.
        capacity: How many rows to pack; those that are missing count as zero.

    Returns:
        The codes, and (3,) float32: one, how many values were not finite, and whether any value
        was not zero.
    """
    word = word_of(values.device)
    finite = values.abs() <= torch.finfo(values.dtype).max
    if values.dtype == torch.float64:
        values = torch.where(finite, values.sign(), 0.0)  # which float32 holds
    flat = in_order(values, rows).flatten().float()
    count, size = _per(word), words_for(values.shape, rows, capacity, word)
    flat = F.pad(flat, [0, count * size - flat.numel()])
    # Bits as integers make short vector code: 1 for positive, 2 for negative, so that no word is
    # a NaN, of which anomaly detection would complain.
    bits = flat.view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    kept = (magnitude > 0) & (magnitude < _INFINITY)
    parts = torch.where(kept, 1 - (bits >> 31), 0).view(count, size)
    codes = parts[0]
    for number in range(1, count):
        codes = codes | (parts[number] << (2 * number))
    bad = torch.where(finite, 0.0, 1.0).sum()
    any_at_all = ((bad > 0) | (codes != 0).any()).float()
    codes = codes.view(word) if word == torch.float32 else codes.to(word)
    return codes, torch.stack([torch.ones_like(bad), bad, any_at_all])


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
    words = codes.view(torch.int32) if codes.dtype == torch.float32 else codes.to(torch.int32)
    order = _order(len(shape), rows)
    unit, last = _unit(shape, rows), 30 - 2 * _per(codes.dtype)
    shifts = torch.arange(30, last, -2, dtype=torch.int32, device=codes.device)
    values = (words.view(1, -1, unit) << shifts.view(-1, 1, 1)) >> 30
    flat = values.clamp(min=-1).to(dtype).view(-1, unit)[: math.prod(shape) // unit]
    return flat.view([shape[dim] for dim in order]).permute(inverse(order))


def words_for(shape: tuple[int, ...], rows: int, capacity: int, word: torch.dtype) -> int:
    """How many words hold `capacity` rows of tensors of a shape."""
    unit = _unit(shape, rows)
    units = capacity * math.prod(shape[:rows]) * math.prod(shape[rows + 1 :]) // unit
    # With one unit more a word's values are not a whole number of rows apart, which the compiler
    # would make loops of their own for, nor a power of two, which caches have few places for.
    return (-(-units // _per(word)) + 1) * unit


def _unit(shape: tuple[int, ...], rows: int) -> int:
    """The values side by side that loops take together, of one row at most."""
    innermost = _order(len(shape), rows)[-1]
    return 1 if innermost == rows else max(1, shape[innermost])


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
