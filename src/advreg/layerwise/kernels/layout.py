"""How signs lie in words, two bits a value.

A tensor is read in an order, a permutation of its dimensions, its batch dimension outermost. In
that order its values are cut evenly into groups: a single one, or one a row, so that rows can be
selected. Value i of a group is in word i % M at the bits 2 * (i // M), M being the words of a
group: 01 is positive, 10 negative, 00 zero. So a vector of words serves a vector of values, and a
compiler makes of a running index the same loop as for the layer before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from advreg.errors import StateError

CARRIER_DTYPE = torch.float8_e4m3fn
"""A type of one byte whose tensors may require gradients; no byte of codes is its NaN."""

PACKS_BY_OPERATOR = ("cpu",)
"""The devices whose compiled code calls the operator that packs, to which full words belong."""

Order = tuple[int, ...]
"""A tensor's dimensions from the outermost to the innermost, the batch dimension first."""


def packs_by_operator(device: torch.device) -> bool:
    """Whether compiled code calls the operator that packs; else its compiler fuses packing."""
    return device.type in PACKS_BY_OPERATOR


def word_of(device: torch.device) -> torch.dtype:
    """The type of a device's words.

    A CPU reads full words best, and its compiler loads vectors of float32 better than of integers;
    a GPU moves fewer bytes with small words.
    """
    return torch.float32 if packs_by_operator(device) else torch.uint8


def values_per_word(word: torch.dtype) -> int:
    """Values in a word of a type: 16 in float32, 4 in uint8."""
    return 4 * word.itemsize


def words_for(shape: Sequence[int], order: Order, word: torch.dtype, groups: int = 1) -> int:
    """How many words a group of a tensor of a shape takes.

    Args:
        shape: Of the tensor.
        order: In which it is read.
        word: The type of the words.
        groups: 1, or as many as the tensor has rows.
    """
    per, rows = values_per_word(word), shape[order[0]]
    if groups == rows:
        inner = math.prod(shape[dim] for dim in order[1:])
        return 4 * max(1, -(-inner // (4 * per)))  # a CPU's runs begin at multiples of 16 bytes
    unit = unit_of(shape, order)
    # With one unit more a word's values are not a whole number of rows apart, which the compiler
    # would make loops of their own for, nor a power of two, which caches have few places for.
    return (-(-math.prod(shape) // (unit * per)) + 1) * unit


def unit_of(shape: Sequence[int], order: Order) -> int:
    """The values side by side that loops take together, of one row at most."""
    return 1 if len(order) == 1 else max(1, shape[order[-1]])


class Form(NamedTuple):
    """How a tensor's values lie, and which words they take.

    Attributes:
        dense: Whether they lie side by side in the order.
        groups: How many groups they take.
        size: How many of them each of these groups has.
    """

    dense: bool
    groups: int
    size: int


def form(
    shape: Sequence[int], strides: Sequence[int], order: Order, groups: int, capacity: int
) -> Form:
    """How a tensor that has no more rows than its words are for lies in these.

    Args:
        shape: Of the tensor.
        strides: Of the tensor.
        order: In which it is read.
        groups: Of the words: a single one for all rows, or one a row.
        capacity: Values that a group can hold.

    Raises:
        StateError: It has more values than the words.
    """
    rows, size = shape[order[0]], math.prod(shape)
    used = 1
    if groups != 1:
        used, size = rows, size // max(rows, 1)
    if used > groups or size > capacity:
        raise StateError(
            f"A tensor of shape {tuple(shape)} has more values than its packed signs, {groups}"
            f" times {capacity}; grow the memory first."
        )
    return Form(_dense(shape, strides, order), used, size)


form_of = functools.lru_cache(maxsize=1024)(form)
"""The same, kept: eager code asks it in every call."""


def order_of(tensor: Tensor, batch_dim: int) -> Order:
    """The batch dimension, then the others as a tensor's memory nests them.

    They are in turn where the tensor is not dense in such an order.
    """
    return _order(tensor.shape, tensor.stride(), batch_dim)


def compiled_order(dims: int, batch_dim: int) -> Order:
    """The order in which compilers keep activations: the channels of feature maps innermost."""
    others = [dim for dim in range(dims) if dim != batch_dim]
    if dims == 4:
        others = [*others[1:], others[0]]
    return batch_dim, *others


def inverse(order: Order) -> list[int]:
    """The permutation that undoes `permute(order)`."""
    return sorted(range(len(order)), key=order.__getitem__)


def as_differentiable(codes: Tensor) -> Tensor:
    """Codes in a type whose tensors may require gradients, sharing their memory."""
    return codes if codes.dtype == torch.float32 else codes.view(CARRIER_DTYPE)


def from_differentiable(codes: Tensor) -> Tensor:
    """What `as_differentiable` was given."""
    return codes.view(torch.uint8) if codes.dtype == CARRIER_DTYPE else codes


@functools.lru_cache(maxsize=1024)
def _order(shape: torch.Size, strides: tuple[int, ...], batch_dim: int) -> Order:
    others = [dim for dim in range(len(shape)) if dim != batch_dim]
    turn = batch_dim, *others
    if _dense(shape, strides, turn):
        return turn
    nested = batch_dim, *sorted(others, key=lambda dim: (-strides[dim], dim))
    return nested if _dense(shape, strides, nested) else turn


def _dense(shape: Sequence[int], strides: Sequence[int], order: Order) -> bool:
    step = 1
    for dim in reversed(order):
        if shape[dim] > 1:
            if strides[dim] != step:
                return False
            step *= shape[dim]
    return True
