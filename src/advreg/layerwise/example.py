"""Our extension of the memory: what each example itself left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.batch import View
from advreg.errors import ConfigurationError, StateError, UnsupportedError
from advreg.layerwise.memory import Rule, Told, copied, count_nonfinite
from advreg.layerwise.randomness import Generators


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
        self.stored: Tensor | None = None
        self.seen: Tensor | None = None
        self.nonfinite: Tensor | None = None
        self.restarts = 0

    def read(self, activation: Tensor, told: Told, generators: Generators) -> Tensor | None:
        """See `Memory.read`."""
        assert told.indices is not None
        self._check(activation, told)
        self._reserve(activation, told, generators)
        assert self.stored is not None
        if told.view is None:
            return self.stored[told.indices]
        rows, columns = told.view.windows(*activation.shape[-2:])
        cut = self.stored[told.indices[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return cut.movedim(-1, 1)

    def write(self, gradient: Tensor, told: Told, before: Tensor | None) -> Tensor | None:
        """See `Memory.write`."""
        assert self.stored is not None
        assert self.seen is not None
        assert told.indices is not None
        self.nonfinite = count_nonfinite(self.nonfinite, gradient)
        self.seen[told.indices] = True
        accumulates = self.rule.step is not None
        if told.view is None:
            if accumulates and before is None:
                before = self.stored[told.indices]
            self.stored[told.indices] = self.rule.updated(before, gradient)
            return before
        rows, columns = told.view.windows(*gradient.shape[-2:])
        place = (told.indices[:, None, None], slice(None), rows[:, :, None], columns[:, None, :])
        if accumulates and before is None:
            before = self.stored[place].movedim(-1, 1)
        self.stored[place] = self.rule.updated(before, gradient).movedim(1, -1)
        return before

    def zeros(self) -> float:
        """See `Memory.zeros`."""
        if self.stored is None or self.seen is None or not self.seen.any():
            return float("nan")
        return (self.stored[self.seen] == 0).float().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """See `Memory.state_dict`."""
        return {
            "stored": self.stored,
            "seen": self.seen,
            "nonfinite": self.nonfinite,
            "restarts": self.restarts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Memory.load_state_dict`."""
        self.stored, self.seen = copied(state["stored"]), copied(state["seen"])
        self.nonfinite, self.restarts = copied(state["nonfinite"]), state["restarts"]

    def _check(self, activation: Tensor, told: Told) -> None:
        assert told.indices is not None
        if len(told.indices) != len(activation):
            raise StateError(
                f"The adversary was told of {len(told.indices)} examples and met"
                f" {len(activation)}; call adversary.batch(indices, view) for each mini-batch."
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

    def _reserve(self, activation: Tensor, told: Told, generators: Generators) -> None:
        assert told.indices is not None
        frame = list(activation.shape[1:])
        if told.view is not None:
            frame[-2:] = [size + 2 * told.view.padding for size in frame[-2:]]
        stored = self.stored
        if stored is not None and (
            list(stored.shape[1:]) != frame or stored.device != activation.device
        ):
            self.stored = stored = None
            self.restarts += 1
        have = 0 if stored is None else len(stored)
        low, high = map(int, told.indices.aminmax()) if len(told.indices) else (0, -1)
        if low < 0:
            raise StateError(
                f"Example memory was told of index {low}; give each example's place in the"
                " training data, from 0."
            )
        need = high + 1
        if stored is not None and need <= have:
            return
        size = max(need, self.rule.examples or 2 * have)
        like = activation.detach().new_empty((size - have, *frame))
        fresh = self.rule.first(like, generators)
        unseen = torch.zeros(size - have, dtype=torch.bool, device=activation.device)
        self.stored = fresh if stored is None else torch.cat([stored, fresh])
        self.seen = (
            unseen if stored is None or self.seen is None else torch.cat([self.seen, unseen])
        )
