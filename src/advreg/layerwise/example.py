"""Our extension of the memory: what each example itself left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.batch import View
from advreg.errors import ConfigurationError, StateError, UnsupportedError
from advreg.layerwise.memory import (
    Rule,
    Stored,
    Told,
    count_nonfinite,
    restored,
    saved,
)
from advreg.layerwise.signs import Signs, added, inverse, order_of
from advreg.randomness import Generators


class ExampleMemory:
    """Our extension: each example finds what its own last visit left, an epoch ago.

    At the network's input S lives in the frame of the untouched, padded image: the view that
    made the input is applied to S on the way in and undone on the way back.
    """

    def __init__(self, rule: Rule, at_input: bool) -> None:
        if rule.rows != 0:
            raise ConfigurationError("Example memory counts examples in dimension 0 only.")
        self.rule = rule
        self.at_input = at_input
        self.stored: Stored | None = None
        self.seen: Tensor | None = None
        self.nonfinite: Tensor | int = 0
        self.restarts = 0
        self._restored = False

    def read(self, activation: Tensor, told: Told, generators: Generators) -> Stored | None:
        """See `Memory.read`."""
        assert told.indices is not None
        self._check(activation, told)
        if self._restored and self.stored is not None and self.seen is not None:
            device = activation.device  # where the site is, is known only now
            self.stored, self.seen = self.stored.to(device), self.seen.to(device)
        self._restored = False
        self._reserve(activation, told.indices, told.view, generators)
        assert self.stored is not None
        found = self.stored.index_select(0, told.indices.to(activation.device))
        if told.view is None:
            return found
        frames = found.values() if isinstance(found, Signs) else found
        each = torch.arange(len(frames), device=frames.device)
        return frames[_windows(each, told.view, activation)].movedim(-1, 1)

    def write(self, gradient: Tensor, told: Told, before: Tensor | None) -> Tensor | None:
        """See `Memory.write`."""
        assert self.stored is not None
        assert self.seen is not None
        assert told.indices is not None
        if not self._fits(gradient, told.view):  # the memory has started anew meanwhile
            return None
        indices = told.indices.to(gradient.device)
        self.seen[indices] = True
        if isinstance(self.stored, Signs):
            self._replace(self.stored, gradient, indices, told.view)
            return None
        self.nonfinite = added(self.nonfinite, count_nonfinite(gradient))
        place: Any = indices
        if told.view is not None:
            place, gradient = _windows(indices, told.view, gradient), gradient.movedim(1, -1)
        if self.rule.step is not None and before is None:
            before = self.stored[place]
        self.stored[place] = self.rule.updated(before, gradient)
        return before

    def _replace(self, stored: Signs, gradient: Tensor, indices: Tensor, view: View | None) -> None:
        if view is None:
            fresh = stored.index_select(0, indices)
            self.nonfinite = fresh.record(gradient, self.nonfinite)
        else:
            # An example may be twice in a mini-batch, in two views.
            indices, places = indices.unique(return_inverse=True)
            frames = stored.index_select(0, indices).values()
            new = Signs.zeros(gradient, 0)
            self.nonfinite = new.record(gradient, self.nonfinite)
            frames[_windows(places, view, gradient)] = new.values().movedim(1, -1)
            fresh = Signs.of(frames, 0, stored.order)
        stored.index_copy_(0, indices, fresh)

    def takes(self, activation: Tensor) -> int:
        """See `Memory.takes`; without the padding of a view."""
        examples = self.rule.examples or len(activation)
        empty = self.rule.empty(
            activation.new_empty((examples, *activation.shape[1:]), device="meta")
        )
        return empty.codes.nbytes if isinstance(empty, Signs) else empty.nbytes

    def zeros(self) -> float:
        """See `Memory.zeros`."""
        if self.stored is None or self.seen is None or not self.seen.any():
            return float("nan")
        seen = self.stored.index_select(0, self.seen.nonzero().flatten())
        values = seen.values() if isinstance(seen, Signs) else seen
        return (values == 0).float().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """See `Memory.state_dict`."""
        return {
            "stored": saved(self.stored),
            "seen": self.seen,
            "nonfinite": self.nonfinite,
            "restarts": self.restarts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Memory.load_state_dict`."""
        self.stored, seen = restored(state["stored"]), state["seen"]
        self.seen = None if seen is None else seen.clone()
        self.nonfinite, self.restarts = state["nonfinite"] + 0, state["restarts"]
        self._restored = True

    def _check(self, activation: Tensor, told: Told) -> None:
        assert told.indices is not None
        if len(told.indices) != len(activation):
            raise StateError(
                f"The adversary was told of {len(told.indices)} examples and met"
                f" {len(activation)}; call adversary.set_batch(indices, view) for each mini-batch."
            )
        if told.view is None:
            return
        if not isinstance(told.view, View):
            raise UnsupportedError(
                f"A view of type {type(told.view).__name__} cannot be undone;"
                " describe crops and flips by advreg.View, or use memory='slot'."
            )
        if not self.at_input:
            raise UnsupportedError(
                "Example memory at a hidden site cannot follow a crop or a flip;"
                " keep example memory to sites='input', or train without augmentation."
            )
        if activation.dim() != 4:
            raise UnsupportedError(
                f"A view needs inputs of shape (B, C, H, W), not {tuple(activation.shape)};"
                " leave the view out."
            )

    def _fits(self, tensor: Tensor, view: View | None) -> bool:
        assert self.stored is not None
        same = self.stored.device == tensor.device
        return same and list(self.stored.shape[1:]) == _frame(tensor, view)

    def _reserve(
        self, activation: Tensor, indices: Tensor, view: View | None, generators: Generators
    ) -> None:
        stored = self.stored
        if stored is not None and not self._fits(activation, view):
            self.stored = stored = self.seen = None
            self.restarts += 1
        have = 0 if stored is None else stored.shape[0]
        low, high = map(int, indices.aminmax()) if len(indices) else (0, -1)
        if low < 0:
            raise StateError(
                f"Example memory was told of index {low}; give each example's place in the"
                " training data, from 0."
            )
        need = high + 1
        if stored is not None and need <= have:
            return
        size = max(need, self.rule.examples or 2 * have)
        order = order_of(activation)
        shape = (size - have, *_frame(activation, view))
        like = activation.detach().new_empty([shape[dim] for dim in order])
        fresh = self.rule.first(like.permute(inverse(order)), generators)
        unseen = torch.zeros(size - have, dtype=torch.bool, device=activation.device)
        self.stored = fresh if stored is None else _joined(stored, fresh)
        self.seen = unseen if self.seen is None else torch.cat([self.seen, unseen])


def _frame(tensor: Tensor, view: View | None) -> list[int]:
    """The shape of an example's memory."""
    frame = list(tensor.shape[1:])
    if view is not None:
        frame[-2:] = [size + 2 * view.padding for size in frame[-2:]]
    return frame


def _windows(rows: Tensor, view: View, like: Tensor) -> tuple[Any, ...]:
    """Where in frames (N, C, H', W') the views of rows lie, as (B, H, W, C)."""
    down, across = view.windows(*like.shape[-2:])
    down, across = down.to(rows.device), across.to(rows.device)
    return rows[:, None, None], slice(None), down[:, :, None], across[:, None, :]


def _joined(stored: Stored, fresh: Stored) -> Stored:
    if isinstance(stored, Signs) and isinstance(fresh, Signs):
        return stored.joined(fresh)
    assert isinstance(stored, Tensor)
    assert isinstance(fresh, Tensor)
    return torch.cat([stored, fresh])
