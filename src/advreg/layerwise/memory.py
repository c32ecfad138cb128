"""What the last backward pass left at a site, and which rows of it the next forward pass uses.

A memory holds S in units of the budget, so that a perturbation is epsilon * rho * S with the
magnitudes of S at most one (for the L2 direction, one in root mean square).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from advreg.batch import LossyView, View
from advreg.layerwise.directions import Direction, direction, random_signs
from advreg.layerwise.packed import PackedWords
from advreg.randomness import Generators

Start = Literal["zero", "random"]
STARTS: tuple[str, ...] = get_args(Start)

Stored = Tensor | PackedWords
"""S before `MemoryRule.factor`: packed where it is signs, else int8 levels or floating."""

Mask = Tensor | Mapping[str, Tensor | tuple[Tensor | None, ...]] | None
"""Where examples are perturbed, see `LayerwiseAdversary.set_batch`."""

LEVELS = 127
"""An accumulating memory keeps S in steps of 1/127, so that a value takes one byte."""


@dataclass(frozen=True)
class BatchInfo:
    """What the adversary knows of the mini-batch in the forward pass.

    Attributes:
        indices: (B,) int64, the index of each example in the training data; None where unknown.
        view: The crop and flip that made the inputs; None is the identity.
        mask: Where examples are perturbed, see `LayerwiseAdversary.set_batch`; None is everywhere.
    """

    indices: Tensor | None = None
    view: View | LossyView | None = None
    mask: Mask = None

    def mask_for(self, site: str, call: int, activation: Tensor) -> Tensor | None:
        """Where an activation is perturbed, of a shape that broadcasts to it; None is everywhere.

        A mask of another shape than the activation begins with says nothing of it.
        """
        mask = self.mask.get(site) if isinstance(self.mask, Mapping) else self.mask
        if isinstance(mask, tuple):
            mask = mask[call] if call < len(mask) else None
        if mask is None or tuple(activation.shape[: mask.dim()]) != tuple(mask.shape):
            return None
        mask = mask.to(activation.device, torch.bool)
        return mask.reshape(*mask.shape, *[1] * (activation.dim() - mask.dim()))


@dataclass(frozen=True)
class MemoryRule:
    """How one memory is kept.

    Attributes:
        direction: What is kept of a gradient.
        batch_dim: The dimension that counts examples.
        start: What a memory holds before its first gradient.
        step: Accumulation: how far one gradient moves S; None replaces S.
        examples: How many examples an example memory expects; None grows as they come.
        factor: What the stored numbers are multiplied by to give S.
        packs: Whether S takes two bits a value: signs that do not accumulate.
    """

    direction: Direction = "sign"
    batch_dim: int = 0
    start: Start = "zero"
    step: float | None = None
    examples: int | None = None
    factor: float = field(init=False)
    packs: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", 1.0 if self.step is None else 1.0 / LEVELS)
        object.__setattr__(self, "packs", self.direction == "sign" and self.step is None)

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The type in which S is stored, where it is not packed, for gradients of a type."""
        if self.direction in ("sign", "random"):
            return torch.int8
        return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

    def random(self, like: Tensor, generators: Generators) -> Tensor:
        """A random direction within the budget, with the shape and layout of `like`."""
        generator = generators.on(like.device)
        if self.step is not None:
            levels = torch.empty_like(like, dtype=torch.int8)
            return levels.random_(-LEVELS, LEVELS + 1, generator=generator)
        if self.direction == "sign":
            return random_signs(like, generator)
        noise = torch.empty_like(like, dtype=self.dtype(like.dtype)).normal_(generator=generator)
        return direction(noise, self.direction, self.batch_dim)

    def updated(self, old: Tensor | None, gradient: Tensor) -> Tensor:
        """The numbers to store after a gradient; `old` is needed only where they accumulate."""
        new = direction(gradient, self.direction, self.batch_dim).to(self.dtype(gradient.dtype))
        if self.step is None:
            return new
        assert old is not None
        least = 1 if self.step > 0 else 0
        step = max(least, min(round(self.step * LEVELS), 2 * LEVELS))
        moved = old.to(torch.int16) + step * new.to(torch.int16)
        return moved.clamp_(-LEVELS, LEVELS).to(torch.int8)


class Memory(ABC):
    """Reads the stored S for the rows of a mini-batch, and writes it from their gradient.

    A kind of memory is one class in one file, registered under its name by `register_memory`.

    Args:
        rule: How it is kept.
        at_input: Whether its site is the network's input.

    Attributes:
        nonfinite: How many values of all gradients so far were not finite.
        resets: How often another shape or device emptied the memory.
    """

    needs_indices: ClassVar[bool] = False
    """Whether it must know which examples a mini-batch holds."""

    def __init__(self, rule: MemoryRule, at_input: bool) -> None:
        self.rule, self.at_input = rule, at_input
        self.nonfinite: Tensor | int = 0
        self.resets = 0

    @abstractmethod
    def read(self, activation: Tensor, batch: BatchInfo, generators: Generators) -> Stored | None:
        """S of the first n <= B rows before `rule.factor`; None where all would be zero."""

    @abstractmethod
    def write(self, gradient: Tensor, batch: BatchInfo, before: Tensor | None) -> Tensor | None:
        """Keeps the direction of a gradient that has come back to the rows that were read.

        Returns:
            What an accumulating memory has moved from; handed in again as `before`, it makes
            another backward pass through the same forward pass replace this one.
        """

    @abstractmethod
    def nbytes(self, activation: Tensor) -> int:
        """The bytes of a memory for such an activation."""

    def zeros(self) -> float:
        """The share of exact zeros in what the last gradients left; NaN before the first."""
        return float("nan")

    def missing(self) -> float:
        """The share of rows that a mini-batch had in common with earlier ones and that was lost."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""
        # A copy: on a GPU the count goes on in place.
        return {"nonfinite": self.nonfinite + 0, "resets": self.resets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, copied, since others may share the state."""
        self.nonfinite, self.resets = state["nonfinite"] + 0, state["resets"]

    def count_nonfinite(self, bad: Tensor | int) -> None:
        """Adds to `nonfinite`, on the device of the latest count, without waiting for a GPU."""
        total, bad = self.nonfinite, int(bad) if not isinstance(bad, Tensor) or bad.is_cpu else bad
        if isinstance(total, Tensor) and isinstance(bad, Tensor):
            total = total.to(bad.device)
        self.nonfinite = total + bad


class RandomSigns(Memory):
    """The control: fresh signs in every forward pass, and no memory."""

    def read(self, activation: Tensor, batch: BatchInfo, generators: Generators) -> Tensor:
        """See `Memory.read`."""
        return random_signs(activation.detach(), generators.on(activation.device))

    def write(self, gradient: Tensor, batch: BatchInfo, before: Tensor | None) -> None:
        """Keeps nothing."""

    def nbytes(self, activation: Tensor) -> int:
        """No memory, no bytes."""
        return 0

    def zeros(self) -> float:
        """Signs are never zero."""
        return 0.0


MEMORIES: dict[str, type[Memory]] = {}
"""The kinds of memory, by the name of the setting `memory`."""


def register_memory(name: str) -> Callable[[type[Memory]], type[Memory]]:
    """A decorator that makes a kind of memory known by a name."""

    def register(kind: type[Memory]) -> type[Memory]:
        MEMORIES[name] = kind
        return kind

    return register


def build_memory(name: str, rule: MemoryRule, at_input: bool) -> Memory:
    """A new memory for one call of one site."""
    kind = RandomSigns if rule.direction == "random" else MEMORIES[name]
    return kind(rule, at_input)
