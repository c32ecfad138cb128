"""What a forward pass adds at its sites, and what it is made of."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from advreg.layerwise.kernels import added_signs, round_towards
from advreg.layerwise.memory import BatchInfo, Memory, Stored
from advreg.layerwise.packed import PackedWords
from advreg.randomness import Generators
from advreg.tensors import precision, wide

NO_LIMITS = (-math.inf, math.inf)


@dataclass
class SiteCall:
    """The state of one of a site's calls within a forward pass.

    Attributes:
        memory: What the last backward pass left here.
        rho: The relative budget's scale, a float32 scalar; None before the first forward pass.
        age: Forward passes since rho was measured.
    """

    memory: Memory
    rho: Tensor | None = None
    age: int = 0


class Probe(Protocol):
    """Sees perturbations and the gradients that come back to them; see `inspection`."""

    def applied(self, site: str, activation: Tensor, perturbed: Tensor) -> Tensor:
        """Takes what a forward pass has made of an activation; returns the perturbation."""

    def returned(
        self, site: str, change: Tensor, gradient: Tensor, batch_dim: int, batch: BatchInfo | None
    ) -> None:
        """Takes the gradient that has come back there."""


@dataclass
class ForwardPass:
    """What all sites share in one forward pass of the network.

    Attributes:
        factor: On every site's epsilon: warm-up and split.
        rms_interval: Forward passes between two measurements of rho.
        batch: The mini-batch's indices and view.
        generators: For random starts and random signs.
        probe: What sees the perturbations and the gradients, if anything does.
        perturbed: By id, the tensors that this pass has perturbed, to recognise a site that
            returns another site's tensor; the version shows whether it was changed in place since.
        backward_count: Gradients that have come back to its sites.
    """

    factor: float
    rms_interval: int
    batch: BatchInfo
    generators: Generators
    probe: Probe | None = None
    perturbed: dict[int, tuple[weakref.ref[Tensor], int, str]] = field(default_factory=dict)
    backward_count: int = 0


@dataclass(frozen=True)
class SavedPerturbation:
    """What one call added in its forward pass: epsilon * rho * stored.

    Attributes:
        call: The site's call.
        forward: The forward pass.
        stored: S before the rule's factor; None is zero.
        rho: The scale of a relative budget, a float32 scalar; None is 1.
        epsilon: The factor on what is stored.
        mask: Where it is added, of a shape that broadcasts; None is everywhere.
    """

    call: SiteCall
    forward: ForwardPass
    stored: Stored | None
    rho: Tensor | None
    epsilon: float
    mask: Tensor | None = None

    def added_to(
        self, activation: Tensor, limits: tuple[float, float], batch_dim: int, towards: bool
    ) -> Tensor:
        """A new tensor: the perturbed activation, within limits.

        Args:
            activation: Any shape.
            limits: Of the sum; with them there is a gradient only where `towards` is.
            batch_dim: The dimension that counts examples.
            towards: Whether the sum is rounded towards the activation, in half precision: an
                input's spacing is as large as its budget, which rounding to the nearest oversteps.
        """
        if towards:
            exact = self._added_everywhere(wide(activation), NO_LIMITS, batch_dim)
            exact = exact if limits == NO_LIMITS else exact.clamp(*limits)
            perturbed = round_towards(activation, exact)
        else:
            perturbed = self._added_everywhere(activation, limits, batch_dim)
        return perturbed if self.mask is None else torch.where(self.mask, perturbed, activation)

    def _added_everywhere(
        self, activation: Tensor, limits: tuple[float, float], batch_dim: int
    ) -> Tensor:
        stored, rho, epsilon = self.stored, self.rho, self.epsilon
        if isinstance(stored, PackedWords):
            return added_signs(activation, stored.codes, rho, epsilon, stored.order, *limits)
        if stored is None or stored.shape[batch_dim] == 0:
            perturbed = activation.clone()
        else:
            scale: Tensor | float = epsilon
            if rho is not None:  # infinity times zero would be NaN
                most = min(torch.finfo(dtype).max for dtype in (activation.dtype, rho.dtype))
                scale = (rho * epsilon).clamp(max=most)
            step = (stored.to(activation.dtype) * scale).to(activation.dtype)
            if stored.shape == activation.shape:
                perturbed = activation + step
            else:
                perturbed = activation.clone()
                perturbed.narrow(batch_dim, 0, stored.shape[batch_dim]).add_(step)
        return perturbed if limits == NO_LIMITS else perturbed.clamp(*limits)


def root_mean_square(activation: Tensor) -> Tensor:
    """The scale of a relative budget: the RMS over the whole tensor, a float32 scalar.

    An activation that is not finite has no scale: zero, so that no later step is the worse for it.
    """
    norm = torch.linalg.vector_norm(activation.detach(), dtype=precision(activation))
    return (norm / max(activation.numel(), 1) ** 0.5).float().nan_to_num_(0.0, 0.0, 0.0)
