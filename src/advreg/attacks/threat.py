"""Threat models: what an attack may do to an input, as start, step and project."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advreg.checks import Range, check_budget, check_inputs
from advreg.errors import ConfigurationError
from advreg.tensors import column, finite, precision, round_towards, wide
from advreg.units import Number, non_negative


@dataclass(frozen=True, init=False)
class Threat(ABC):
    """A ball around each input.

    Every tensor is (B, ...), one perturbation an example. In half precision what is returned is
    rounded into the ball, and small steps are lost: keep perturbations in float32 and add them by
    `advreg.tensors.perturbed`.

    Args:
        epsilon: The radius in the input's own unit, a number or a fraction such as `"8/255"`.

    Raises:
        ConfigurationError: The radius is negative or not a number.
    """

    starts_at_inputs: ClassVar[bool] = False
    """Whether the first of several runs does better from the input than from a random point."""

    epsilon: float

    def __init__(self, epsilon: Number) -> None:
        object.__setattr__(self, "epsilon", non_negative(epsilon, "epsilon"))

    def check(self, inputs: Tensor, input_range: Range | None) -> None:
        """Refuses inputs outside their range and a budget in another unit than theirs.

        Args:
            inputs: (B, ...), see `advreg.checks.check_inputs`.
            input_range: Where they lie; None for no limits.

        Raises:
            ConfigurationError: They do not fit.
        """
        check_inputs(inputs, input_range)
        check_budget(self.epsilon, input_range, self.diameter(inputs))

    @abstractmethod
    def start(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A perturbation drawn uniformly from the ball.

        Args:
            inputs: Whose shape, type and device the perturbation takes.
            generator: Where the draws come from; one on the CPU gives every device the same ones.
        """

    @abstractmethod
    def step(self, delta: Tensor, gradient: Tensor, size: float) -> Tensor:
        """The perturbation after a step of `size` in the ball's steepest direction.

        Entries of the gradient that are not finite count as zero.
        """

    @abstractmethod
    def project(self, delta: Tensor) -> Tensor:
        """The nearest perturbation within the ball, up to rounding."""

    @abstractmethod
    def diameter(self, inputs: Tensor) -> float:
        """The longest way between two examples whose values span one unit."""


@dataclass(frozen=True, init=False)
class Linf(Threat):
    """Every value may change by `epsilon`."""

    def start(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Each value uniform in [-epsilon, epsilon]."""
        device = inputs.device if generator is None else generator.device
        dtype = precision(inputs)
        draws = torch.rand(inputs.shape, generator=generator, dtype=dtype, device=device)
        return _as(inputs, (draws * (2 * self.epsilon) - self.epsilon).to(inputs.device))

    def step(self, delta: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Delta + size * sign(g)."""
        return delta + size * finite(gradient).sign().to(delta.dtype)

    def project(self, delta: Tensor) -> Tensor:
        """Each value clamped to [-epsilon, epsilon]."""
        return _as(delta, wide(delta).clamp(-self.epsilon, self.epsilon))

    def diameter(self, inputs: Tensor) -> float:
        """One."""
        return 1.0


@dataclass(frozen=True, init=False)
class L2(Threat):
    """All values of an example together may change by the Euclidean length `epsilon`."""

    # In many dimensions nearly all of the ball is its surface: a random start spends the budget.
    starts_at_inputs: ClassVar[bool] = True

    def start(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A uniform direction, and a length that makes the whole uniform in the ball."""
        device = inputs.device if generator is None else generator.device
        dtype = precision(inputs)
        normal = torch.randn(inputs.shape, generator=generator, dtype=dtype, device=device)
        radius = torch.rand(len(inputs), generator=generator, dtype=dtype, device=device)
        # The volume within radius r grows with r to the power of the dimension.
        radius = self.epsilon * radius ** (1 / math.prod(inputs.shape[1:]))
        start = _polar(normal)[0] * column(radius, normal)
        return _as(inputs, start.to(inputs.device))

    def step(self, delta: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Delta + size * g / |g|, each example by its own length."""
        return delta + size * _polar(finite(wide(gradient)))[0].to(delta.dtype)

    def project(self, delta: Tensor) -> Tensor:
        """What is longer than epsilon, shortened to it."""
        exact = wide(delta)
        direction, length = _polar(exact)
        return _as(delta, torch.where(length > self.epsilon, self.epsilon * direction, exact))

    def diameter(self, inputs: Tensor) -> float:
        """The square root of the number of values."""
        return math.sqrt(math.prod(inputs.shape[1:]))


def check_threat(threat: Any) -> None:
    """Refuses what is no threat model, such as its budget alone.

    Raises:
        ConfigurationError: It is another thing.
    """
    if not isinstance(threat, Threat):
        raise ConfigurationError(f"The threat is {threat!r}; give Linf(8 / 255), say, or L2(0.5).")


def _as(like: Tensor, values: Tensor) -> Tensor:
    """Perturbations in the type of `like`, none of them lengthened by rounding."""
    return round_towards(torch.zeros_like(like), values)


def _polar(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's direction, of length one or zero, and its length, (B, 1, ...)."""
    # Divided by the largest entry first: the squares of very small or large ones are not floats.
    largest = column(vectors.flatten(1).abs().amax(1), vectors)
    scaled = vectors / torch.where(largest > 0, largest, 1.0)
    length = column(torch.linalg.vector_norm(scaled.flatten(1), dim=1), vectors)
    return scaled / length.clamp_min(1.0), length * largest
