"""Sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from advreg.batch import Batch
from advreg.layerwise import paused
from advreg.methods.base import Backward, Criterion, Method, training_pass
from advreg.methods.output import StepOutput
from advreg.methods.weights import Moves, gradients_apart, shifted
from advreg.modes import frozen_statistics
from advreg.units import Number, non_negative


@dataclass
class SAM(Method):
    """The gradient at theta + rho * grad / |grad| (Foret et al., ICLR 2021, arXiv 2010.01412).

    Each mini-batch, and so each micro-batch of an accumulated step and each rank of a data
    parallel one, climbs along its own gradient. The climbing pass updates the running
    statistics, the training pass at the moved weights does not. An attached adversary is paused
    while climbing.

    Args:
        rho: How far the weights are moved, in Euclidean length over all parameters.
    """

    name: ClassVar[str] = "sam"
    rho: Number = 0.05

    def __post_init__(self) -> None:
        self.rho = non_negative(self.rho, "rho")

    @property
    def passes(self) -> float:
        """One at the weights, one at the moved weights."""
        return 2.0

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is that of the moved weights."""
        with paused(self.network), gradients_apart(self.network) as gradients:
            # The handed backward scales the loss, without which half precision loses gradients;
            # the network without its wrapper keeps data parallel ranks from exchanging them.
            backward(criterion(self.network(batch.inputs), batch.targets))
            ascent = gradients()
        with moved(ascent, float(self.rho)), frozen_statistics(self.network):
            return training_pass(model, batch, criterion, backward)


@contextmanager
def moved(gradients: Moves, length: float) -> Iterator[None]:
    """Within it the parameters are `length` farther along gradients of any positive scale.

    On leaving, also by an exception, they are what they were, bit for bit. A gradient that is
    zero or not finite anywhere moves nothing.
    """
    norm = get_total_norm([gradient for _, gradient in gradients])
    climbs = norm.isfinite() & (norm > 0)
    with shifted(
        (parameter, torch.where(climbs, gradient * (length / norm), 0))
        for parameter, gradient in gradients
    ):
        yield
