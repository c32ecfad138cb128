"""The eager kernels as operators that a compiler can call from its graph, for the CPU.

A compiler's own code packs and unpacks bits slowly on a CPU (`benchmarks/designs.py --compile`).
"""

from __future__ import annotations

import ctypes
import math
import struct

import torch
from torch import Tensor

from advreg.layerwise import kernels
from advreg.layerwise.signs import Signs, chunks, in_turn, lies_in, order_of

EIGHT = torch.float8_e4m3fn
"""A type of one byte whose tensors may require gradients."""

_DIMENSIONS = 8
_TAIL = struct.Struct(f"q{_DIMENSIONS}b")
"""Behind the codes: how many values were not finite, and the order of the dimensions."""

_Bytes = ctypes.c_char * _TAIL.size

Order = tuple[int, ...]


class Flat:
    """Signs in one tensor of bytes, in whatever order the compiler has chosen for the activation.

    Attributes:
        codes: uint8, the codes of `Signs` one after the other, then the tail.
        shape: Of the values.
        rows: The dimension that counts examples.
    """

    def __init__(self, codes: Tensor, shape: tuple[int, ...], rows: int) -> None:
        self.codes, self.shape, self.rows = codes, shape, rows

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    @property
    def nonfinite(self) -> int:
        """How many values of the gradient were not finite."""
        return _read_tail(self.codes, 0)[0]

    @classmethod
    def of(cls, signs: Signs) -> Flat:
        """The same values in this form."""
        order = _possible(signs.order, signs.rows)
        if order != signs.order:
            signs = Signs.of(signs.values(), signs.rows, order)
        codes = _empty(signs.shape, signs.rows)
        codes[: -_TAIL.size] = signs.codes.flatten()
        _write_tail(codes, 0, order)
        return cls(codes, signs.shape, signs.rows)

    def signs(self) -> Signs:
        """The same values in the form of eager code, copied.

        Eager code writes over its codes, and a compiled backward pass may still want these.
        """
        return self.view().clone()

    def view(self) -> Signs:
        """As `signs`, sharing memory."""
        order = _read_tail(self.codes, len(self.shape))[1]
        outer, count, inner = chunks(self.shape, order, self.rows)
        codes = self.codes[: -_TAIL.size].view(outer, count, -(-inner // 4))
        return Signs(codes, self.shape, order, self.rows)


def _possible(order: Order, rows: int) -> Order:
    """An order if its codes take as many bytes as in turn, and the tail can tell it; else turn."""
    fits = len(order) <= _DIMENSIONS and order[:1] == (rows,) == (0,)
    return order if fits else in_turn(len(order))


def _empty(shape: tuple[int, ...], rows: int) -> Tensor:
    outer, count, inner = chunks(shape, in_turn(len(shape)), rows)
    size = outer * count * -(-inner // 4) + _TAIL.size
    return torch.empty(size, dtype=torch.uint8, device="cpu")


def _tail(codes: Tensor) -> ctypes.Array[ctypes.c_char]:
    return _Bytes.from_address(codes.data_ptr() + codes.numel() - _TAIL.size)


def _read_tail(codes: Tensor, dims: int) -> tuple[int, Order]:
    bad, *order = _TAIL.unpack(_tail(codes))
    return bad, in_turn(dims) if dims > _DIMENSIONS else tuple(order[:dims])


def _write_tail(codes: Tensor, bad: int, order: Order) -> None:
    _TAIL.pack_into(_tail(codes), 0, bad, *(*order, *[0] * _DIMENSIONS)[:_DIMENSIONS])


def _with_rows(tensor: Tensor, rows: int, capacity: int) -> tuple[int, ...]:
    return (*tensor.shape[:rows], capacity, *tensor.shape[rows + 1 :])


def _add(
    activation: Tensor,
    codes: Tensor,
    scale: Tensor,
    rows: int,
    capacity: int,
    low: float,
    high: float,
) -> Tensor:
    order = _read_tail(codes, activation.dim())[1]
    if lies_in(activation, order):
        parts = chunks(activation.shape, order, rows)
        place = codes.data_ptr(), parts[1], capacity * -(-parts[2] // 4)
        added = kernels.add(activation, place, parts, scale, (low, high), lasting=False)
        if added is not None:
            return added
    shape = _with_rows(activation, rows, capacity)
    limits = None if low == -math.inf and high == math.inf else (low, high)
    signs = Flat(codes, shape, rows).view().narrow(rows, 0, activation.shape[rows])
    return signs.add_to(activation, scale, limits, lasting=False)


def _sign(gradient: Tensor, activation: Tensor, rows: int, capacity: int) -> Tensor:
    shape = _with_rows(gradient, rows, capacity)
    # In the order of the activation, which the next forward pass will have again.
    order = _possible(order_of(activation), rows)
    codes, bad = _empty(shape, rows), None
    _write_tail(codes, 0, order)
    if gradient.shape[rows] == capacity and lies_in(gradient, order):
        parts = chunks(gradient.shape, order, rows)
        place = codes.data_ptr(), capacity, capacity * -(-parts[2] // 4)
        bad = kernels.sign(gradient, place, parts)
    if bad is None:
        signs = Flat(codes, shape, rows).view()
        count = gradient.shape[rows]
        signs.codes[:, count:] = 0  # a smaller mini-batch, whose missing rows are forgotten
        bad = int(signs.narrow(rows, 0, count).record(gradient))
    if bad:
        _write_tail(codes, bad, order)
    return codes.view(EIGHT)


def _add_shape(activation: Tensor, *_: object) -> Tensor:
    return torch.empty_like(activation)


def _sign_shape(gradient: Tensor, activation: Tensor, rows: int, capacity: int) -> Tensor:
    codes = _empty(_with_rows(gradient, rows, capacity), rows)
    return torch.empty_like(codes, dtype=EIGHT, device=gradient.device)


# Without a fixed layout the compiler hands over a tensor in the layout that it has.
_LIBRARY = torch.library.Library("advreg", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)
_LIBRARY.define(
    "add(Tensor activation, Tensor codes, Tensor scale, int rows, int capacity, float low,"
    " float high) -> Tensor",
    tags=_TAGS,
)
_LIBRARY.define(
    "sign(Tensor gradient, Tensor activation, int rows, int capacity) -> Tensor", tags=_TAGS
)
_LIBRARY.impl("add", _add, "CPU")
_LIBRARY.impl("sign", _sign, "CPU")
torch.library.register_fake("advreg::add", _add_shape, lib=_LIBRARY)
torch.library.register_fake("advreg::sign", _sign_shape, lib=_LIBRARY)
