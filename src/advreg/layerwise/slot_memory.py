"""The paper's memory: what each position of the previous mini-batch left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.layerwise.kernels import pack_and_count
from advreg.layerwise.memory import BatchInfo, Memory, MemoryRule, Stored, register_memory
from advreg.layerwise.packed import PackedWords, order_of, word_of, words_for
from advreg.layerwise.store import SlotStore
from advreg.randomness import Generators


@register_memory("slot")
class SlotMemory(Memory):
    """Row i holds what position i of the previous mini-batch left.

    Signs are packed (`words`), everything else is in a `SlotStore`. A mini-batch of another size
    shares the rows that both have; another shape or device empties the memory.
    """

    def __init__(self, rule: MemoryRule, at_input: bool) -> None:
        super().__init__(rule, at_input)
        self.words: PackedWords | None = None
        self.count = 0  # rows that the last gradient had
        self._key: Any = None  # of the activation that `words` is ready for
        self._moves = False  # a state was loaded, whose device says nothing
        self._store = SlotStore(
            first=self._blank,
            moves=False,
            batch_dim=rule.batch_dim,
            keeps=rule.step is not None,
        )

    def read(self, activation: Tensor, batch: BatchInfo, generators: Generators) -> Stored | None:
        """See `Memory.read`."""
        if not self.rule.packs:
            return self._read_dense(activation, generators)
        key = activation.shape, activation.stride(), activation.device
        if self.words is not None and key == self._key:
            return self.words
        order = order_of(activation, self.rule.batch_dim)
        self.words = self.ready(activation, order, generators)
        self._key = None if self.words is None else key
        return self.words

    def write(self, gradient: Tensor, batch: BatchInfo, before: Tensor | None) -> Tensor | None:
        """See `Memory.write`."""
        if not self.rule.packs:
            return self._write_dense(gradient, before)
        words, dim = self.words, self.rule.batch_dim
        count = gradient.shape[dim]
        if words is None or count > words.shape[dim] or not self._fits(words, gradient):
            order = order_of(gradient, dim)
            shape, size = (
                tuple(gradient.shape),
                words_for(gradient.shape, order, word_of(gradient.device)),
            )
            self._key = None
        else:
            order, shape, size = words.order, words.shape, words.codes.shape[1]
        codes, self.nonfinite = pack_and_count(gradient, order, size, 1, self.nonfinite)
        self.words, self.count = PackedWords(codes, shape, order, dim), count
        return None

    def ready(
        self, like: Tensor, order: tuple[int, ...], generators: Generators
    ) -> PackedWords | None:
        """The packed signs with at least the rows of `like`, in an order of its dimensions."""
        words, dim = self.words, self.rule.batch_dim
        if words is not None and self._moves:  # where the site is, is known only now
            words = words.to(like.device)
        self._moves = False
        if words is not None and not self._fits(words, like):
            words, self.count = None, 0
            self.resets += 1
        if words is None:
            if self.rule.start == "zero":
                return None
            self.count = like.shape[dim]
            return PackedWords.of(self.rule.random(like.detach(), generators), order, dim)
        words = words.ordered(order)
        return words if like.shape[dim] <= words.shape[dim] else words.grown(like.shape[dim])

    def keep(self, words: PackedWords, nonfinite: Tensor | int) -> None:
        """Takes signs that were packed elsewhere, in compiled code."""
        self.words, self.count = words, words.shape[self.rule.batch_dim]
        self._key = None
        self.count_nonfinite(nonfinite)

    def _fits(self, words: PackedWords, tensor: Tensor) -> bool:
        """Whether a tensor differs from the stored one in its number of rows at most."""
        mine, theirs, dim = tuple(words.shape), tuple(tensor.shape), self.rule.batch_dim
        same = (mine[:dim], mine[dim + 1 :]) == (theirs[:dim], theirs[dim + 1 :])
        return same and words.codes.device == tensor.device

    def _blank(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like, dtype=self.rule.dtype(like.dtype))

    def _read_dense(self, activation: Tensor, generators: Generators) -> Tensor | None:
        held = self._store.held(activation)
        self.resets = self._store.resets
        if held is None and self.rule.start == "random":
            self._store.write(self.rule.random(activation.detach(), generators))
            held = self._store.held(activation)
        return held if isinstance(held, Tensor) else None

    def _write_dense(self, gradient: Tensor, before: Tensor | None) -> Tensor | None:
        self.count_nonfinite((~gradient.isfinite()).sum())
        if self.rule.step is None:
            self._store.write(self.rule.updated(None, gradient))
            return None
        slots = self._store.room(gradient)
        assert isinstance(slots, Tensor)
        before = slots.clone() if before is None else before
        slots.copy_(self.rule.updated(before, gradient))
        return before

    def nbytes(self, activation: Tensor) -> int:
        """See `Memory.nbytes`."""
        if not self.rule.packs:
            return activation.numel() * self.rule.dtype(activation.dtype).itemsize
        order = order_of(activation, self.rule.batch_dim)
        return PackedWords.nbytes_of(activation.shape, order, activation.device)

    def zeros(self) -> float:
        """See `Memory.zeros`."""
        dim = self.rule.batch_dim
        if self.rule.packs:
            if self.words is None or self.count == 0:
                return float("nan")
            values = self.words.values().narrow(dim, 0, self.count)
        else:
            if self._store.rows is None or self._store.count == 0:
                return float("nan")
            kept = self._store.rows
            assert isinstance(kept, Tensor)
            values = kept.narrow(dim, 0, self._store.count)
        if values.is_meta:  # which has no values
            return float("nan")
        return (values == 0).float().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """See `Memory.state_dict`."""
        if not self.rule.packs:
            return {**super().state_dict(), "store": self._store.state_dict()}
        words = None if self.words is None else self.words.state_dict()
        return {**super().state_dict(), "words": words, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Memory.load_state_dict`."""
        super().load_state_dict(state)
        if not self.rule.packs:
            self._store.load_state_dict(state["store"])
            return
        words = state["words"]
        self.words = None if words is None else PackedWords.from_state(words)
        self.count, self._key, self._moves = state["count"], None, True
