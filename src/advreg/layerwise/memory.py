"""What the last backward pass left at a site, and which rows of it the next forward meets.

A memory holds S in units of the budget, so that a perturbation is epsilon * rho * S with the
magnitudes of S at most one (for the L2 direction, one in root mean square).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from advreg.batch import View
from advreg.layerwise.directions import Direction, direction, random_signs
from advreg.layerwise.randomness import Generators

MemoryKind = Literal["slot", "example"]
MEMORIES: tuple[str, ...] = get_args(MemoryKind)
Start = Literal["zero", "random"]
STARTS: tuple[str, ...] = get_args(Start)

LEVELS = 127
"""An accumulating memory keeps S in steps of 1/127, so that a value takes one byte."""


@dataclass(frozen=True)
class Told:
    """What the adversary knows of the mini-batch in the forward pass."""

    indices: Tensor | None
    view: View | None


@dataclass(frozen=True)
class Rule:
    """How one memory is kept.

    Attributes:
        direction: What is kept of a gradient.
        rows: The dimension that counts examples.
        start: What a memory holds before it has met a gradient.
        step: Accumulation: how far one gradient moves S; None replaces S.
        examples: How many examples an example memory expects; None grows as they come.
    """

    direction: Direction = "sign"
    rows: int = 0
    start: Start = "zero"
    step: float | None = None
    examples: int | None = None

    @property
    def factor(self) -> float:
        """What the stored numbers are multiplied by to give S."""
        return 1.0 if self.step is None else 1.0 / LEVELS

    def kept(self, dtype: torch.dtype) -> torch.dtype:
        """The type in which S is stored for gradients of a type."""
        if self.direction in ("sign", "random"):
            return torch.int8
        return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    def first(self, like: Tensor, generators: Generators) -> Tensor:
        """The start of a memory with the shape and layout of `like`."""
        if self.start == "zero":
            return torch.zeros_like(like, dtype=self.kept(like.dtype))
        generator = generators.on(like.device)
        if self.step is not None:
            levels = torch.empty_like(like, dtype=torch.int8)
            return levels.random_(-LEVELS, LEVELS + 1, generator=generator)
        if self.direction == "sign":
            return random_signs(like, generator)
        noise = torch.empty_like(like, dtype=self.kept(like.dtype)).normal_(generator=generator)
        return direction(noise, self.direction, self.rows)

    def updated(self, old: Tensor | None, gradient: Tensor) -> Tensor:
        """The stored numbers after a gradient; `old` is needed only where they accumulate."""
        new = direction(gradient, self.direction, self.rows).to(self.kept(gradient.dtype))
        if self.step is None:
            return new
        assert old is not None
        least = 1 if self.step > 0 else 0
        step = max(least, min(round(self.step * LEVELS), 2 * LEVELS))
        moved = old.to(torch.int16) + step * new.to(torch.int16)
        return moved.clamp_(-LEVELS, LEVELS).to(torch.int8)


class Memory(Protocol):
    """Reads the stored S for the rows of a mini-batch, and writes it from their gradient."""

    rule: Rule
    nonfinite: Tensor | None
    """How many values of all gradients so far were not finite, a scalar."""
    restarts: int
    """How often another shape or device made the memory start anew."""

    def read(self, activation: Tensor, told: Told, generators: Generators) -> Tensor | None:
        """S of the first n <= B rows before `rule.factor`; None where all would be zero."""

    def write(self, gradient: Tensor, told: Told, before: Tensor | None) -> Tensor | None:
        """Keeps the direction of a gradient that has come back to the rows that were read.

        Returns:
            What an accumulating memory has moved from; handed in again as `before`, it makes
            another backward pass through the same forward pass take the place of this one.
        """

    def zeros(self) -> float:
        """The share of exact zeros in what the last gradients left; NaN before the first."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""


def count_nonfinite(count: Tensor | None, gradient: Tensor) -> Tensor:
    """A running count of values that are not finite, kept on the gradient's device."""
    bad = (~gradient.isfinite()).sum()
    return bad if count is None else count.to(bad.device) + bad


def copied(tensor: Tensor | None) -> Tensor | None:
    """A tensor of one's own, out of a state that others may share."""
    return None if tensor is None else tensor.clone()
