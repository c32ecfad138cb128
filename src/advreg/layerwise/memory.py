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
from advreg.layerwise.planes import Planes
from advreg.layerwise.signs import Signs
from advreg.randomness import Generators

MemoryKind = Literal["slot", "example"]
MEMORIES: tuple[str, ...] = get_args(MemoryKind)
Start = Literal["zero", "random"]
STARTS: tuple[str, ...] = get_args(Start)

Stored = Tensor | Signs
"""S before `Rule.factor`: packed where it is signs, else int8 levels or floating."""

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

    @property
    def packs(self) -> bool:
        """Whether S takes two bits a value: signs that do not accumulate."""
        return self.direction == "sign" and self.step is None

    def kept(self, dtype: torch.dtype) -> torch.dtype:
        """The type in which S is stored, unpacked, for gradients of a type."""
        if self.direction in ("sign", "random"):
            return torch.int8
        return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    def empty(self, like: Tensor) -> Stored:
        """S = 0 with the shape and layout of `like`."""
        if self.packs:
            return Signs.zeros(like, self.rows)
        return torch.zeros_like(like, dtype=self.kept(like.dtype))

    def first(self, like: Tensor, generators: Generators) -> Stored:
        """The start of a memory with the shape and layout of `like`."""
        if self.start == "zero":
            return self.empty(like)
        generator = generators.on(like.device)
        if self.step is not None:
            levels = torch.empty_like(like, dtype=torch.int8)
            return levels.random_(-LEVELS, LEVELS + 1, generator=generator)
        if self.packs:
            return Signs.of(random_signs(like, generator), self.rows)
        noise = torch.empty_like(like, dtype=self.kept(like.dtype)).normal_(generator=generator)
        return direction(noise, self.direction, self.rows)

    def updated(self, old: Tensor | None, gradient: Tensor) -> Tensor:
        """The numbers to store after a gradient; `old` is needed only where they accumulate."""
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
    nonfinite: Tensor | int
    """How many values of all gradients so far were not finite."""
    restarts: int
    """How often another shape or device made the memory start anew."""

    def read(self, activation: Tensor, told: Told, generators: Generators) -> Stored | None:
        """S of the first n <= B rows before `rule.factor`; None where all would be zero."""

    def write(self, gradient: Tensor, told: Told, before: Tensor | None) -> Tensor | None:
        """Keeps the direction of a gradient that has come back to the rows that were read.

        Returns:
            What an accumulating memory has moved from; handed in again as `before`, it makes
            another backward pass through the same forward pass take the place of this one.
        """

    def takes(self, activation: Tensor) -> int:
        """The bytes of a memory for such an activation."""

    def zeros(self) -> float:
        """The share of exact zeros in what the last gradients left; NaN before the first."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""


def count_nonfinite(gradient: Tensor) -> Tensor:
    """How many values are not finite, counted on the gradient's device."""
    return (~gradient.isfinite()).sum()


def for_eager_code(stored: Stored | Planes) -> Stored:
    """What is stored, as eager code reads and writes it."""
    return stored.signs() if isinstance(stored, Planes) else stored


def saved(stored: Stored | Planes | None) -> Any:
    """What is stored, as a state may hold it."""
    stored = None if stored is None else for_eager_code(stored)
    return stored.state_dict() if isinstance(stored, Signs) else stored


def restored(state: Any) -> Stored | None:
    """What `saved` was given, copied, since others may share the state."""
    if isinstance(state, dict):
        return Signs.from_state(state)
    return None if state is None else state.clone()
