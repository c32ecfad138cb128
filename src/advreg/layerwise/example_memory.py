"""Our extension of the memory: what each example itself left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.errors import ConfigurationError, UnsupportedError
from advreg.layerwise.example_store import ExampleStore
from advreg.layerwise.indices import frame_of
from advreg.layerwise.kernels import pack_signs
from advreg.layerwise.memory import BatchInfo, Memory, MemoryRule, Stored, register_memory
from advreg.layerwise.packed import PackedWords, order_of, word_of, words_for
from advreg.randomness import Generators

SHAPES = 4
"""How many shapes a memory holds its examples in; of further ones, the latest used."""


@register_memory("example")
class ExampleMemory(Memory):
    """Each example is perturbed by what its own last visit left.

    At the network's input S lives in the frame of the untouched, padded image: the view that
    made the input is applied to S on the way in and undone on the way back.

    Mini-batches may have several shapes, as padding to their longest example gives them: each of
    the `SHAPES` latest used ones has rows of its own, and an example is perturbed by what its last
    visit in the same shape left. A further shape takes the place of the one that was not used for
    longest, which counts as a reset.
    """

    needs_indices = True

    def __init__(self, rule: MemoryRule, at_input: bool) -> None:
        super().__init__(rule, at_input)
        if rule.batch_dim != 0:
            raise ConfigurationError("Example memory counts examples in dimension 0 only.")
        self._generators: Generators | None = None
        self._stores: dict[tuple[int, ...], ExampleStore] = {}  # by an example's shape, latest last
        self._dropped = 0  # shapes that others took the place of
        self._once = torch.zeros(0, dtype=torch.bool)  # the examples that these had seen
        # Once there are several shapes: examples that came back, and those that their shape knew.
        self._returns: Tensor = torch.zeros(2, dtype=torch.int64)

    def read(self, activation: Tensor, batch: BatchInfo, generators: Generators) -> Stored:
        """See `Memory.read`."""
        if batch.view is not None and not self.at_input:
            raise UnsupportedError(
                "Example memory at a hidden site cannot follow a crop or a flip;"
                " keep example memory to sites='input', or train without augmentation."
            )
        self._generators = generators
        store = self._store_for(frame_of(activation, batch.view))
        found: Any = store.select(batch.indices, batch.view, activation)
        if len(self._stores) > 1:
            self._count_returns(store, torch.as_tensor(batch.indices).to(activation.device))
        self.resets = self._dropped + sum(each.resets for each in self._stores.values())
        return found.ordered(order_of(activation, 0)) if isinstance(found, PackedWords) else found

    def write(self, gradient: Tensor, batch: BatchInfo, before: Tensor | None) -> Tensor | None:
        """See `Memory.write`."""
        rule, store = self.rule, self._stores.get(frame_of(gradient, batch.view))
        if store is None:  # other shapes have taken its place since
            return None
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

    def _store_for(self, frame: tuple[int, ...]) -> ExampleStore:
        """The rows of a shape, now the latest used."""
        store = self._stores.pop(frame, None)
        if store is None:
            if len(self._stores) == SHAPES:
                oldest = self._stores.pop(next(iter(self._stores)))
                self._dropped += oldest.resets + 1
                if oldest.visits is not None:
                    self._once = _either(self._once, oldest.visits > 0)
            store = self._new_store()
        self._stores[frame] = store
        return store

    def _count_returns(self, store: ExampleStore, indices: Tensor) -> None:
        assert store.visits is not None
        known = store.visits[indices] > 0
        back = _among(self._once, indices)
        for other in self._stores.values():
            if other.visits is not None:
                back = back | _among(other.visits > 0, indices)
        self._returns = self._returns.to(known.device) + torch.stack([back.sum(), known.sum()])

    def _new_store(self) -> ExampleStore:
        store = ExampleStore(None, first=self._first, moves=False)
        store.expected = self.rule.examples
        return store

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
        zeros, total = 0, 0
        for store in self._stores.values():
            if store.rows is None or store.visits is None or store.visits.is_meta:
                continue
            for chunk in store.visits.nonzero().flatten().split(1024):
                seen: Any = store.rows.index_select(0, chunk)
                values = seen.values() if isinstance(seen, PackedWords) else seen
                zeros, total = zeros + int((values == 0).sum()), total + values.numel()
        return zeros / total if total else float("nan")

    def missing(self) -> float:
        """See `Memory.missing`: of the examples that came back, those in a shape new to them."""
        if len(self._stores) < 2:
            return 0.0
        back, known = (int(count) for count in self._returns)
        seen = self._once.cpu()
        for store in self._stores.values():
            if store.visits is not None:
                seen = _either(seen, store.visits.cpu() > 0)
        # Where the shape changes for good, each example comes back once in a shape new to it.
        return 1 - known / back if back >= 2 * int(seen.sum()) > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """See `Memory.state_dict`."""
        stores = [store.state_dict() for store in self._stores.values()]
        counts = {"dropped": self._dropped, "once": self._once, "returns": self._returns}
        return {**super().state_dict(), **counts, "stores": stores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Memory.load_state_dict`."""
        super().load_state_dict(state)
        self._dropped, self._stores = state["dropped"], {}
        self._once, self._returns = state["once"].clone(), state["returns"].clone()
        for one in state["stores"]:
            store = self._new_store()
            store.load_state_dict(one)
            if store.rows is not None:
                self._stores[tuple(store.rows.shape[1:])] = store


def _either(first: Tensor, second: Tensor) -> Tensor:
    """Where one of two masks is true, (N,) and (M,); the shorter one ends in false."""
    longer, shorter = sorted((first, second), key=len, reverse=True)
    result = longer.clone()
    result[: len(shorter)] |= shorter.to(longer.device)
    return result


def _among(mask: Tensor, indices: Tensor) -> Tensor:
    """Whether a mask (N,) is true at indices (B,), of which some may lie beyond it."""
    if not len(mask):
        return torch.zeros_like(indices, dtype=torch.bool)
    mask, inside = mask.to(indices.device), indices < len(mask)
    return inside & mask[indices.clamp(max=len(mask) - 1)]
