"""The paper's memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.layerwise.memory import (
    Rule,
    Stored,
    Told,
    count_nonfinite,
    for_eager_code,
    restored,
    saved,
)
from advreg.layerwise.planes import Planes
from advreg.layerwise.signs import Signs, added
from advreg.randomness import Generators


class SlotMemory:
    """The paper's memory: row i holds what position i of the previous mini-batch left."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.stored: Stored | Planes | None = None
        self.count = 0
        self.nonfinite: Tensor | int = 0
        self.restarts = 0
        self._restored = False

    def read(self, activation: Tensor, told: Told, generators: Generators) -> Stored | None:
        """See `Memory.read`."""
        if self._restored and self.stored is not None:  # where the site is, is known only now
            self.stored = for_eager_code(self.stored).to(activation.device)
        self._restored = False
        if self.stored is not None and not self.fits(activation):
            self.stored, self.count = None, 0
            self.restarts += 1
        if self.stored is None and self.rule.start == "random":
            self.stored = self.rule.first(activation.detach(), generators)
            self.count = activation.shape[self.rule.rows]
        if self.stored is None:
            return None
        self.stored = stored = for_eager_code(self.stored)
        if isinstance(stored, Signs):
            self.stored = stored = stored.ordered(activation)
        rows = self.rule.rows
        return stored.narrow(rows, 0, min(self.count, activation.shape[rows]))

    def write(self, gradient: Tensor, told: Told, before: Tensor | None) -> Tensor | None:
        """See `Memory.write`."""
        rows, count = self.rule.rows, gradient.shape[self.rule.rows]
        if self.rule.step is not None:
            return self._accumulate(gradient, before)
        if self.stored is None or not self.fits(gradient) or count > self.stored.shape[rows]:
            self.stored = self.rule.empty(gradient)
        self.stored = for_eager_code(self.stored)
        self.count = count
        slots = self.stored.narrow(rows, 0, count)
        if isinstance(slots, Signs):
            self.nonfinite = slots.record(gradient, self.nonfinite)
        else:
            self.nonfinite = added(self.nonfinite, count_nonfinite(gradient))
            slots.copy_(self.rule.updated(None, gradient))
        return None

    def takes(self, activation: Tensor) -> int:
        """See `Memory.takes`."""
        empty = self.rule.empty(activation.to("meta"))
        return empty.codes.nbytes if isinstance(empty, Signs) else empty.nbytes

    def zeros(self) -> float:
        """See `Memory.zeros`."""
        if self.stored is None or self.count == 0:
            return float("nan")
        slots = for_eager_code(self.stored).narrow(self.rule.rows, 0, self.count)
        values = slots.values() if isinstance(slots, Signs) else slots
        return (values == 0).float().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """See `Memory.state_dict`."""
        return {
            "stored": saved(self.stored),
            "count": self.count,
            "nonfinite": self.nonfinite,
            "restarts": self.restarts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Memory.load_state_dict`."""
        self.stored, self.count = restored(state["stored"]), state["count"]
        self.nonfinite, self.restarts = state["nonfinite"] + 0, state["restarts"]
        self._restored = True

    def _accumulate(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        rows, count = self.rule.rows, gradient.shape[self.rule.rows]
        self.nonfinite = added(self.nonfinite, count_nonfinite(gradient))
        stored = self.stored
        assert not isinstance(stored, (Signs, Planes))
        if stored is None or not self.fits(gradient) or count > stored.shape[rows]:
            grown = torch.zeros_like(gradient, dtype=self.rule.kept(gradient.dtype))
            if stored is not None and self.fits(gradient):
                grown.narrow(rows, 0, self.count).copy_(stored.narrow(rows, 0, self.count))
            self.stored = stored = grown
        slots = stored.narrow(rows, 0, count)
        before = slots.clone() if before is None else before
        slots.copy_(self.rule.updated(before, gradient))
        # An accumulated perturbation belongs to its slot and outlasts a smaller mini-batch.
        self.count = max(self.count, count)
        return before

    def fits(self, tensor: Tensor) -> bool:
        """Whether a tensor differs from the stored one in its number of rows at most."""
        assert self.stored is not None
        if self.stored.device != tensor.device:
            return False
        if self.stored.shape == tensor.shape:
            return True
        mine, rows = list(self.stored.shape), self.rule.rows
        theirs = list(tensor.shape)
        if len(mine) != len(theirs):
            return False
        mine[rows] = theirs[rows] = 0
        return mine == theirs
