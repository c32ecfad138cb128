"""Our extension of the memory: what each example itself left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.errors import ConfigurationError, UnsupportedError
from advreg.layerwise.kernels import pack_signs
from advreg.layerwise.memory import BatchInfo, Memory, MemoryRule, Stored, register_memory
from advreg.layerwise.packed import PackedWords, order_of, word_of, words_for
from advreg.layerwise.store import ExampleStore
from advreg.randomness import Generators


@register_memory("example")
class ExampleMemory(Memory):
    """Each example is perturbed by what its own last visit left, an epoch ago.

    At the network's input S lives in the frame of the untouched, padded image: the view that
    made the input is applied to S on the way in and undone on the way back.
    """

    needs_indices = True

    def __init__(self, rule: MemoryRule, at_input: bool) -> None:
        super().__init__(rule, at_input)
        if rule.batch_dim != 0:
            raise ConfigurationError("Example memory counts examples in dimension 0 only.")
        self._generators: Generators | None = None
        self._store = ExampleStore(None, first=self._first, moves=False)
        self._store.expected = rule.examples

    def read(self, activation: Tensor, batch: BatchInfo, generators: Generators) -> Stored:
        """See `Memory.read`."""
        if batch.view is not None and not self.at_input:
            raise UnsupportedError(
                "Example memory at a hidden site cannot follow a crop or a flip;"
                " keep example memory to sites='input', or train without augmentation."
            )
        self._generators = generators
        found: Any = self._store.select(batch.indices, batch.view, activation)
        self.resets = self._store.resets
        return found.ordered(order_of(activation, 0)) if isinstance(found, PackedWords) else found

    def write(self, gradient: Tensor, batch: BatchInfo, before: Tensor | None) -> Tensor | None:
        """See `Memory.write`."""
        store, rule = self._store, self.rule
        rows = store.rows
        if isinstance(rows, PackedWords) and batch.view is None:
            shape = tuple(gradient.shape)
            size = words_for(shape, rows.order, word_of(gradient.device), len(gradient))
            codes, counts = pack_signs(gradient, rows.order, size, len(gradient))
            self.count_nonfinite(counts[1].long())
            store.write(batch.indices, None, PackedWords(codes, shape, rows.order, 0))
            return None
        self.count_nonfinite((~gradient.isfinite()).sum())
        if rule.step is not None and before is None:
            kept = store.select(batch.indices, batch.view, gradient)
            assert isinstance(kept, Tensor)
            before = kept
        store.write(batch.indices, batch.view, rule.updated(before, gradient))
        return before

    def _first(self, like: Tensor) -> Any:
        """New rows of the shape and layout of `like`, with what they hold at first."""
        if self.rule.start == "random":
            assert self._generators is not None
            values = self.rule.random(like, self._generators)
            order = order_of(like, 0)
            return PackedWords.of(values, order, 0, groups=len(like)) if self.rule.packs else values
        if self.rule.packs:
            return PackedWords.zeros(like.shape, order_of(like, 0), 0, like.device, len(like))
        return torch.zeros_like(like, dtype=self.rule.dtype(like.dtype))

    def nbytes(self, activation: Tensor) -> int:
        """See `Memory.nbytes`; without the padding of a view."""
        shape = (self.rule.examples or len(activation), *activation.shape[1:])
        if not self.rule.packs:
            return torch.Size(shape).numel() * self.rule.dtype(activation.dtype).itemsize
        order = order_of(activation, 0)
        return PackedWords.nbytes_of(shape, order, activation.device, groups=shape[0])

    def zeros(self) -> float:
        """See `Memory.zeros`."""
        rows, visits = self._store.rows, self._store.visits
        if rows is None or visits is None or not visits.any():
            return float("nan")
        seen: Any = rows.index_select(0, visits.nonzero().flatten())
        values = seen.values() if isinstance(seen, PackedWords) else seen
        return (values == 0).float().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """See `Memory.state_dict`."""
        return {**super().state_dict(), "store": self._store.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Memory.load_state_dict`."""
        super().load_state_dict(state)
        self._store.load_state_dict(state["store"])
