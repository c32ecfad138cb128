"""The paper's memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg.layerwise.memory import Rule, Told, copied, count_nonfinite
from advreg.layerwise.randomness import Generators


class SlotMemory:
    """The paper's memory: row i holds what position i of the previous mini-batch left."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.stored: Tensor | None = None
        self.count = 0
        self.nonfinite: Tensor | None = None
        self.restarts = 0

    def read(self, activation: Tensor, told: Told, generators: Generators) -> Tensor | None:
        """See `Memory.read`."""
        if self.stored is not None and not self._fits(activation):
            self.stored, self.count = None, 0
            self.restarts += 1
        if self.stored is None and self.rule.start == "random":
            self.stored = self.rule.first(activation.detach(), generators)
            self.count = activation.shape[self.rule.rows]
        common = min(self.count, activation.shape[self.rule.rows])
        return self.stored.narrow(self.rule.rows, 0, common) if self.stored is not None else None

    def write(self, gradient: Tensor, told: Told, before: Tensor | None) -> Tensor | None:
        """See `Memory.write`."""
        self.nonfinite = count_nonfinite(self.nonfinite, gradient)
        rows, count = self.rule.rows, gradient.shape[self.rule.rows]
        accumulates = self.rule.step is not None
        if self.stored is None or not self._fits(gradient) or count > self.stored.shape[rows]:
            grown = torch.zeros_like(gradient, dtype=self.rule.kept(gradient.dtype))
            if accumulates and self.stored is not None and self._fits(gradient):
                grown.narrow(rows, 0, self.count).copy_(self.stored.narrow(rows, 0, self.count))
            self.stored = grown
        slots = self.stored.narrow(rows, 0, count)
        if accumulates and before is None:
            before = slots.clone()
        slots.copy_(self.rule.updated(before, gradient))
        # An accumulated perturbation belongs to its slot and outlasts a smaller mini-batch.
        self.count = max(self.count, count) if accumulates else count
        return before

    def zeros(self) -> float:
        """See `Memory.zeros`."""
        if self.stored is None or self.count == 0:
            return float("nan")
        return (self.stored.narrow(self.rule.rows, 0, self.count) == 0).float().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """See `Memory.state_dict`."""
        return {
            "stored": self.stored,
            "count": self.count,
            "nonfinite": self.nonfinite,
            "restarts": self.restarts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Memory.load_state_dict`."""
        self.stored, self.count = copied(state["stored"]), state["count"]
        self.nonfinite, self.restarts = copied(state["nonfinite"]), state["restarts"]

    def _fits(self, tensor: Tensor) -> bool:
        assert self.stored is not None
        mine, rows = list(self.stored.shape), self.rule.rows
        theirs = list(tensor.shape)
        if len(mine) != len(theirs) or self.stored.device != tensor.device:
            return False
        mine[rows] = theirs[rows] = 0
        return mine == theirs
