"""Perturbations carried from one visit to the next, by position or by example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.batch import Batch, View
from advreg.errors import StateError, UnsupportedError


class Slots:
    """One perturbation for each position in the mini-batch; a smaller one meets the first rows."""

    def __init__(self) -> None:
        self.stored: Tensor | None = None

    def read(self, fresh: Tensor) -> Tensor:
        """What the positions hold; what they do not hold yet is that of `fresh`, (B, ...)."""
        if self.stored is None or self.stored.shape[1:] != fresh.shape[1:]:
            return fresh
        held = self.stored[: len(fresh)].to(fresh)
        return torch.cat([held, fresh[len(held) :]])

    def write(self, delta: Tensor) -> None:
        """Keeps (B, ...); what positions beyond hold stays as it is."""
        held = self.stored
        if held is not None and held.shape[1:] == delta.shape[1:]:
            delta = torch.cat([delta, held[len(delta) :].to(delta)])
        self.stored = delta

    def state_dict(self) -> dict[str, Any]:
        """A tensor, or None before the first mini-batch."""
        return {"stored": self.stored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.stored = state["stored"]


class Examples:
    """One perturbation for each training example, in the frame of its untouched, padded image.

    The batch's view is applied on reading and undone on writing; what lies outside the crop stays
    as it was. Kept in float16: rounding moves a perturbation by at most 0.05 % of itself, and
    50,000 frames of 3 x 40 x 40 take 480 MB.

    Args:
        reset: Visits after which an example's perturbation is dropped; None keeps it.
    """

    def __init__(self, reset: int | None = None) -> None:
        self.reset = reset
        self.expected: int | None = None
        """How many examples there will be; None grows as they come."""
        self.stored: Tensor | None = None
        self.visits: Tensor | None = None

    def read(self, batch: Batch, fresh: Tensor) -> Tensor:
        """What the batch's examples carry; those that carry nothing have that of `fresh`.

        Args:
            batch: With the indices of its examples, and their view.
            fresh: (B, ...) in the inputs' shape.

        Returns:
            (B, ...) in the type of `fresh`.

        Raises:
            StateError: The batch does not say which examples it holds.
            UnsupportedError: The view cannot be undone.
        """
        indices = self._checked(batch)
        stored, visits = self._reserve(batch, indices)
        begins = visits[indices] % self.reset == 0 if self.reset else visits[indices] == 0
        rows = begins.view(-1, *[1] * (fresh.ndim - 1))
        if self.reset:
            stored[indices] = stored[indices].where(~rows, 0)
        return torch.where(rows, fresh, self._cut(batch, indices).to(fresh))

    def write(self, batch: Batch, delta: Tensor) -> None:
        """Keeps the perturbations (B, ...) of the batch read last, and counts their visit."""
        indices = self._checked(batch)
        assert self.stored is not None
        assert self.visits is not None
        delta = delta.to(self.stored.dtype)
        place = _place(batch, indices)
        self.stored[place] = delta if batch.view is None else delta.movedim(1, -1)
        self.visits[indices] += 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors, or None before the first mini-batch."""
        return {"stored": self.stored, "visits": self.visits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.stored, self.visits = (
            None if state[name] is None else state[name].clone() for name in ("stored", "visits")
        )

    def _checked(self, batch: Batch) -> Tensor:
        if batch.indices is None:
            raise StateError(
                "Perturbations carried by example need to know the examples;"
                " give each batch its indices, or use a method that carries none."
            )
        if batch.view is not None and (not isinstance(batch.view, View) or batch.inputs.ndim != 4):
            raise UnsupportedError(
                f"A view of type {type(batch.view).__name__} on inputs of shape"
                f" {tuple(batch.inputs.shape)} cannot be undone; describe crops and flips of"
                " (B, C, H, W) images by advreg.View."
            )
        return batch.indices

    def _cut(self, batch: Batch, indices: Tensor) -> Tensor:
        assert self.stored is not None
        values = self.stored[_place(batch, indices)]
        return values if batch.view is None else values.movedim(-1, 1)

    def _reserve(self, batch: Batch, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Room for the batch's examples; another frame starts anew, another device moves."""
        frame = list(batch.inputs.shape[1:])
        if batch.view is not None:
            frame[-2:] = [size + 2 * batch.view.padding for size in frame[-2:]]
        device = batch.inputs.device
        if self.stored is None or self.visits is None or list(self.stored.shape[1:]) != frame:
            self.stored = torch.zeros((0, *frame), dtype=torch.float16, device=device)
            self.visits = torch.zeros(0, dtype=torch.int64, device=device)
        stored, visits = self.stored.to(device), self.visits.to(device)
        need = int(indices.max()) + 1
        if need > len(stored):
            size = max(need, self.expected or 2 * len(stored))
            stored, visits = _grown(stored, size), _grown(visits, size)
        self.stored, self.visits = stored, visits
        return stored, visits


def _grown(rows: Tensor, size: int) -> Tensor:
    """`size` rows, zero beyond the given ones; by hand, for CPU autocast cannot join float16."""
    grown = rows.new_zeros((size, *rows.shape[1:]))
    grown[: len(rows)] = rows
    return grown


def _place(batch: Batch, indices: Tensor) -> Any:
    """Where the batch's pixels are in the frames: (B, ...), or (B, H, W, C) through a view."""
    if batch.view is None:
        return indices
    rows, columns = batch.view.windows(*batch.inputs.shape[-2:])
    return indices[:, None, None], slice(None), rows[:, :, None], columns[:, None, :]
