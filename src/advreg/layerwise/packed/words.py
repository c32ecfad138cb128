"""Values in {-1, 0, 1} of a tensor, packed to words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advreg.layerwise.kernels import (
    Order,
    add_signs,
    inverse,
    pack_signs,
    word_of,
    words_for,
)


@dataclass(frozen=True, eq=False)
class PackedWords:
    """Values in {-1, 0, 1} of a tensor, in words of a single group or of one group a row.

    Attributes:
        codes: (groups, words), of the type that the device's words have.
        shape: Of the tensor.
        order: In which the tensor is read, the batch dimension first.
        batch_dim: The dimension that counts examples.
    """

    codes: Tensor
    shape: tuple[int, ...]
    order: Order
    batch_dim: int

    @classmethod
    def zeros(
        cls,
        shape: Sequence[int],
        order: Order,
        batch_dim: int,
        device: torch.device,
        groups: int = 1,
    ) -> PackedWords:
        """All zero.

        Args:
            shape: Of the tensor.
            order: In which it is read.
            batch_dim: The dimension that counts examples.
            device: Where the words lie.
            groups: 1, or as many as the tensor has rows, which can then be selected.
        """
        word = word_of(device)
        words = words_for(shape, order, word, groups)
        codes = torch.zeros(groups, words, dtype=word, device=device)
        return cls(codes, tuple(shape), tuple(order), batch_dim)

    @classmethod
    def of(cls, values: Tensor, order: Order, batch_dim: int, groups: int = 1) -> PackedWords:
        """The signs of values of any type; zeros for what is not finite."""
        values = values if values.is_floating_point() else values.float()
        words = words_for(values.shape, order, word_of(values.device), groups)
        codes, _ = pack_signs(values, order, words, groups)
        return cls(codes, tuple(values.shape), tuple(order), batch_dim)

    @staticmethod
    def nbytes_of(shape: Sequence[int], order: Order, device: torch.device, groups: int = 1) -> int:
        """The bytes that the words of such a tensor take."""
        word = word_of(device)
        return groups * words_for(shape, order, word, groups) * word.itemsize

    @property
    def device(self) -> torch.device:
        """Where the words are."""
        return self.codes.device

    @property
    def rows(self) -> int:
        """How many examples there are."""
        return self.shape[self.batch_dim]

    @property
    def nbytes(self) -> int:
        """The memory that the words take."""
        return self.codes.nbytes

    def values(self) -> Tensor:
        """The values: int8 in the tensor's shape."""
        shape = [self.shape[dim] for dim in self.order]
        zeros = torch.zeros(shape, dtype=torch.bfloat16, device=self.device)  # which holds signs
        zeros = zeros.permute(inverse(self.order))
        given = self.codes, None, 1.0, self.order, -math.inf, math.inf
        return add_signs(zeros, *given).to(torch.int8)

    def count_nonzero(self) -> int:
        """How many values are not zero; no value is unpacked for that."""
        bits = self.codes.view(torch.uint8)
        bits = (bits & 0x55) + (bits >> 1 & 0x55)  # a value that is not zero has a single bit
        bits = (bits & 0x33) + (bits >> 2 & 0x33)
        return int(((bits & 0x0F) + (bits >> 4)).sum())

    def index_select(self, dim: int, indices: Tensor) -> PackedWords:
        """The rows with these indices, copied; of words with a group a row."""
        return self._with(self.codes.index_select(0, indices), len(indices))

    def index_copy_(self, dim: int, indices: Tensor, other: PackedWords) -> PackedWords:
        """Puts another's rows, of the same order, in the rows with these indices."""
        self.codes.index_copy_(0, indices, other.codes)
        return self

    def like(self, values: Tensor) -> PackedWords:
        """Other values in this form, with as many groups as they have rows, or a single one."""
        groups = 1 if len(self.codes) == 1 else values.shape[self.batch_dim]
        return PackedWords.of(values, self.order, self.batch_dim, groups)

    def joined(self, other: PackedWords) -> PackedWords:
        """These rows and then another's; of words with a group a row."""
        codes = torch.cat([self.codes, other.ordered(self.order).codes])
        return self._with(codes, self.rows + other.rows)

    def grown(self, rows: int) -> PackedWords:
        """With zeros in rows that there were not; of words in a single group."""
        if rows <= self.rows:
            return self
        values = self.values()
        shape = list(self.shape)
        shape[self.batch_dim] = rows - self.rows
        values = torch.cat([values, values.new_zeros(shape)], dim=self.batch_dim)
        return PackedWords.of(values, self.order, self.batch_dim)

    def ordered(self, order: Order) -> PackedWords:
        """These values, read in another order; itself where that is its own."""
        if order == self.order:
            return self
        return PackedWords.of(self.values(), order, self.batch_dim, len(self.codes))

    def to(self, device: torch.device) -> PackedWords:
        """The same on a device, in the words of that; itself where that is its own."""
        if self.codes.dtype == word_of(device):
            codes = self.codes.to(device)
            return self if codes is self.codes else self._with(codes, self.rows)
        values = self.values().to(device)
        return PackedWords.of(values, self.order, self.batch_dim, len(self.codes))

    def clone(self) -> PackedWords:
        """A copy."""
        return self._with(self.codes.clone(), self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The words and what they mean, as a tensor, lists and numbers."""
        return {
            "codes": self.codes,
            "shape": list(self.shape),
            "order": list(self.order),
            "batch_dim": self.batch_dim,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> PackedWords:
        """What `state_dict` described, copied, in the words of the device where it was loaded."""
        form = tuple(state["shape"]), tuple(state["order"]), state["batch_dim"]
        loaded = cls(state["codes"].clone(), *form)
        return loaded.to(loaded.device)

    def _with(self, codes: Tensor, rows: int) -> PackedWords:
        shape = list(self.shape)
        shape[self.batch_dim] = rows
        return PackedWords(codes, tuple(shape), self.order, self.batch_dim)
