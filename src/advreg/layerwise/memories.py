"""The memory that a site's settings ask for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from advreg.layerwise.directions import random_signs
from advreg.layerwise.example import ExampleMemory
from advreg.layerwise.memory import Memory, MemoryKind, Rule, Told
from advreg.layerwise.slot import SlotMemory
from advreg.randomness import Generators


class RandomSigns:
    """The control: fresh signs in every forward pass, and no memory."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.nonfinite: Tensor | int = 0
        self.restarts = 0

    def read(self, activation: Tensor, told: Told, generators: Generators) -> Tensor | None:
        """See `Memory.read`."""
        return random_signs(activation.detach(), generators.on(activation.device))

    def write(self, gradient: Tensor, told: Told, before: Tensor | None) -> Tensor | None:
        """Keeps nothing."""
        return None

    def takes(self, activation: Tensor) -> int:
        """No memory, no bytes."""
        return 0

    def zeros(self) -> float:
        """Signs are never zero."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the generator is the adversary's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def build_memory(kind: MemoryKind, rule: Rule, at_input: bool) -> Memory:
    """A new memory for one call of one site."""
    if rule.direction == "random":
        return RandomSigns(rule)
    return SlotMemory(rule) if kind == "slot" else ExampleMemory(rule, at_input)
