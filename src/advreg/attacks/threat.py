"""Threat models: what an attack may do to an input, as start, step and project."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.units import Number, non_negative


@dataclass(frozen=True, init=False)
class Threat(ABC):
    """A ball around each input.

    Every tensor is (B, ...), one perturbation an example.

    Args:
        epsilon: The radius in the input's own unit, a number or a fraction such as `"8/255"`.

    Raises:
        ConfigurationError: The radius is negative or not a number.
    """

    epsilon: float

    def __init__(self, epsilon: Number) -> None:
        object.__setattr__(self, "epsilon", non_negative(epsilon, "epsilon"))

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
    """Every value may change by `epsilon`.

    Args:
        epsilon: The most that a value may change.
    """

    def start(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Each value uniform in [-epsilon, epsilon]."""
        device = inputs.device if generator is None else generator.device
        draws = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype, device=device)
        return (draws * (2 * self.epsilon) - self.epsilon).to(inputs.device)

    def step(self, delta: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Delta + size * sign(g)."""
        return delta + size * finite(gradient).sign()

    def project(self, delta: Tensor) -> Tensor:
        """Each value clamped to [-epsilon, epsilon]."""
        return delta.clamp(-self.epsilon, self.epsilon)

    def diameter(self, inputs: Tensor) -> float:
        """One."""
        return 1.0


@dataclass(frozen=True, init=False)
class L2(Threat):
    """All values of an example together may change by the Euclidean length `epsilon`.

    Args:
        epsilon: The greatest Euclidean length of an example's perturbation.
    """

    def start(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A uniform direction, and a length that makes the whole uniform in the ball."""
        device = inputs.device if generator is None else generator.device
        normal = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device=device)
        radius = torch.rand(len(inputs), generator=generator, dtype=inputs.dtype, device=device)
        # The volume within radius r grows with r to the power of the dimension.
        radius = self.epsilon * radius ** (1 / math.prod(inputs.shape[1:]))
        return (_polar(normal)[0] * _column(radius, normal)).to(inputs.device)

    def step(self, delta: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Delta + size * g / |g|, each example by its own length."""
        return delta + size * _polar(finite(gradient))[0]

    def project(self, delta: Tensor) -> Tensor:
        """What is longer than epsilon, shortened to it."""
        direction, length = _polar(delta)
        return torch.where(length > self.epsilon, self.epsilon * direction, delta)

    def diameter(self, inputs: Tensor) -> float:
        """The square root of the number of values."""
        return math.sqrt(math.prod(inputs.shape[1:]))


def finite(gradient: Tensor) -> Tensor:
    """The gradient with zeros where it is not finite."""
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values in the shape that multiplies the examples of `like`, (B, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _polar(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Each example's direction, of length one or zero, and its length, (B, 1, ...)."""
    # Divided by the largest entry first: the squares of very small or large ones are not floats.
    largest = _column(vectors.flatten(1).abs().amax(1), vectors)
    scaled = vectors / torch.where(largest > 0, largest, 1.0)
    length = _column(torch.linalg.vector_norm(scaled.flatten(1), dim=1), vectors)
    return scaled / length.clamp_min(1.0), length * largest
