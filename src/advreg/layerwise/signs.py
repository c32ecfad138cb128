"""Ternary memories, packed to two bits a value."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from advreg.layerwise import gpu
from advreg.layerwise import old_kernels as kernels
from advreg.layerwise.packing import pack, unpack


class Signs:
    """Values in {-1, 0, 1} of a tensor, in the order in which that tensor's memory holds them.

    Attributes:
        codes: (outer, rows, bytes) uint8: for each group of rows that lie side by side and each
            row, the packed values (see `packing`).
        shape: Of the tensor.
        order: The tensor's dimensions from outermost to innermost.
        rows: The dimension that counts examples.
    """

    def __init__(
        self, codes: Tensor, shape: tuple[int, ...], order: tuple[int, ...], rows: int
    ) -> None:
        self.codes, self.shape, self.order, self.rows = codes, tuple(shape), order, rows

    @classmethod
    def zeros(cls, like: Tensor, rows: int) -> Signs:
        """All zero, in the shape, on the device and in the order of a tensor."""
        order = order_of(like)
        outer, count, inner = chunks(like.shape, order, rows)
        codes = torch.zeros(outer, count, -(-inner // 4), dtype=torch.uint8, device=like.device)
        return cls(codes, like.shape, order, rows)

    @classmethod
    def of(cls, values: Tensor, rows: int, order: tuple[int, ...] | None = None) -> Signs:
        """Packs values in {-1, 0, 1}, int8, in their own order unless another one is given."""
        order = order_of(values) if order is None else order
        outer, count, inner = chunks(values.shape, order, rows)
        codes = values.new_empty((outer, count, -(-inner // 4)), dtype=torch.uint8)
        signs = cls(codes, values.shape, order, rows)
        signs.record(values.float())
        return signs

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    def narrow(self, rows: int, start: int, count: int) -> Signs:
        """Some rows, sharing their codes; itself where that is all of them."""
        if count == self.codes.shape[1]:
            return self
        return self._with(self.codes.narrow(1, start, count))

    def index_select(self, rows: int, indices: Tensor) -> Signs:
        """The rows with these places, copied."""
        return self._with(self.codes.index_select(1, indices))

    def index_copy_(self, rows: int, indices: Tensor, other: Signs) -> Signs:
        """Puts another's rows, of the same order, in the rows with these places."""
        self.codes.index_copy_(1, indices, other.codes)
        return self

    def joined(self, other: Signs) -> Signs:
        """These rows and then another's."""
        if other.order != self.order:
            other = Signs.of(other.values(), self.rows, self.order)
        return self._with(torch.cat([self.codes, other.codes], dim=1))

    def to(self, device: torch.device) -> Signs:
        """The same on a device; itself where that is its own."""
        return self if self.device == device else self._with(self.codes.to(device))

    def clone(self) -> Signs:
        """A copy."""
        return self._with(self.codes.clone())

    def ordered(self, like: Tensor) -> Signs:
        """These values in the order of a tensor; itself where that is its own."""
        if lies_in(like, self.order):
            return self
        return Signs.of(self.values(), self.rows, order_of(like))

    def values(self) -> Tensor:
        """The values: int8 in the tensor's shape."""
        _, _, inner = chunks(self.shape, self.order, self.rows)
        flat = unpack(self.codes.flatten(0, 1), inner)
        return flat.reshape([self.shape[dim] for dim in self.order]).permute(inverse(self.order))

    def add_to(
        self,
        activation: Tensor,
        scale: Tensor | float,
        limits: tuple[float, float] | None = None,
    ) -> Tensor:
        """A new tensor: the activation plus `scale` times these values for its first rows.

        Args:
            activation: The shape of these signs, but with B >= rows in dimension `rows`.
            scale: A number or a float32 scalar.
            limits: The range that the sum is clamped to.
        """
        dense = lies_in(activation, self.order)
        signs = self if dense else self.ordered(activation)
        if dense or lies_in(activation, signs.order):
            parts = chunks(activation.shape, signs.order, self.rows)
            gpu_kernels = gpu.kernels_for(activation)
            if gpu_kernels is not None:
                on_gpu: Tensor = gpu_kernels.add(activation, signs.codes, parts, scale, limits)
                return on_gpu
            perturbed = kernels.add(activation, signs._place(), parts, scale, limits)
            if perturbed is not None:
                return perturbed
        perturbed = activation.clone()
        step = signs.values().to(activation.dtype) * scale
        perturbed.narrow(self.rows, 0, step.shape[self.rows]).add_(step)
        return perturbed if limits is None else perturbed.clamp_(*limits)

    def record(self, gradient: Tensor, counted: int | Tensor = 0) -> int | Tensor:
        """Takes the signs of a gradient of the same shape; zeros for what is not finite.

        Args:
            gradient: Of a floating type.
            counted: How many values were not finite before; on a GPU it may be changed in place.

        Returns:
            How many there are with this gradient.
        """
        if gradient.shape != self.shape:  # the kernels would write elsewhere
            raise ValueError(f"A gradient of shape {gradient.shape} for signs of {self.shape}.")
        if not lies_in(gradient, self.order):
            gradient = gradient.permute(self.order).contiguous().permute(inverse(self.order))
        parts = chunks(gradient.shape, self.order, self.rows)
        gpu_kernels = gpu.kernels_for(gradient)
        if gpu_kernels is not None:
            if not isinstance(counted, Tensor) or counted.device != gradient.device:
                counted = torch.full((), int(counted), dtype=torch.int64, device=gradient.device)
            gpu_kernels.sign(gradient, self.codes, parts, counted)
            return counted
        missed: int | Tensor | None = kernels.sign(gradient, self._place(), parts)
        if missed is None:
            codes, missed = pack(gradient.permute(self.order).reshape(-1, parts[2]))
            self.codes.copy_(codes.view_as(self.codes))
        return added(counted, missed)

    def _place(self) -> kernels.Codes:
        return self.codes.data_ptr(), self.codes.shape[1], self.codes.stride(0)

    def _with(self, codes: Tensor) -> Signs:
        shape = (*self.shape[: self.rows], codes.shape[1], *self.shape[self.rows + 1 :])
        return Signs(codes, shape, self.order, self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The codes and what they mean, as a tensor and plain numbers."""
        return {"codes": self.codes, "shape": self.shape, "order": self.order, "rows": self.rows}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Signs:
        """The signs that `state_dict` described, copied."""
        return cls(state["codes"].clone(), state["shape"], state["order"], state["rows"])


def added(count: Tensor | int, more: Tensor | int) -> Tensor | int:
    """A running count, on the device of its latest part."""
    if isinstance(count, Tensor) and isinstance(more, Tensor):
        count = count.to(more.device)
    return count + more


def order_of(tensor: Tensor) -> tuple[int, ...]:
    """A dense tensor's dimensions from outermost to innermost; in turn for any other tensor."""
    turn = _in_turn(tensor.dim())
    if tensor.is_contiguous():
        return turn
    strides = tensor.stride()
    order = tuple(sorted(turn, key=lambda dim: (-strides[dim], dim)))
    return order if lies_in(tensor, order) else turn


def lies_in(tensor: Tensor, order: tuple[int, ...]) -> bool:
    """Whether a tensor's values lie side by side, its dimensions nested in an order."""
    if tensor.is_contiguous() and order == _in_turn(len(order)):
        return True
    step = 1
    for dim in reversed(order):
        size = tensor.shape[dim]
        if size > 1:
            if tensor.stride(dim) != step:
                return False
            step *= size
    return True


@functools.cache
def _in_turn(count: int) -> tuple[int, ...]:
    return tuple(range(count))


def inverse(order: tuple[int, ...]) -> list[int]:
    """The permutation that undoes `permute(order)`."""
    return sorted(range(len(order)), key=order.__getitem__)


def chunks(shape: tuple[int, ...], order: tuple[int, ...], rows: int) -> tuple[int, int, int]:
    """Groups, rows and values in a row's chunk of a group."""
    place = order.index(rows)
    outer = inner = 1
    for dim in order[:place]:
        outer *= shape[dim]
    for dim in order[place + 1 :]:
        inner *= shape[dim]
    return outer, shape[rows], inner
