"""Adversarial weight perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from advreg.batch import Batch
from advreg.layerwise import paused
from advreg.methods.base import (
    Backward,
    Criterion,
    Method,
    TrainingPasses,
    training_passes,
)
from advreg.methods.output import StepOutput
from advreg.methods.weights import Moves, gradients_apart, shifted
from advreg.modes import frozen_statistics
from advreg.units import Number, non_negative


@dataclass
class AWP(Method):
    """J at w + v, v_l = gamma |w_l| g_l / |g_l| in each layer l, g = dJ/dw at w.

    Wu, Xia and Wang, NeurIPS 2020, arXiv 2004.05884: one ascent step on the weights, relative to
    each layer's size, before the loss; the optimizer moves w with the gradient at w + v. Alone it
    is plain training at w + v; composed, "pgd+awp", J is the other method's loss on the inputs
    that its attack has found, the same ones at w and at w + v.

    As in the authors' code biases, norms' weights and whatever else has fewer than two dimensions
    stay; the ascent leaves the batch statistics alone. Each mini-batch climbs along its own
    gradient, so each micro-batch of an accumulated step and each rank of a data parallel one. An
    attached adversary is paused in the ascent.

    Args:
        gamma: How far each layer's weights are moved, in units of their Euclidean length.
    """

    name: ClassVar[str] = "awp"
    gamma: Number = 5e-3

    def __post_init__(self) -> None:
        self.gamma = non_negative(self.gamma, "gamma")

    @property
    def passes(self) -> float:
        """One at the weights, one at the moved weights."""
        return 2.0

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is that of the moved weights."""
        return self.around(training_passes(batch, criterion), model, backward)

    def around(self, train: TrainingPasses, model: nn.Module, backward: Backward) -> StepOutput:
        """Climbs on what `train` does, and does it at the moved weights."""
        with (
            paused(self.network),
            frozen_statistics(self.network),
            gradients_apart(self.network) as gradients,
        ):
            # As in SAM: the handed backward scales, and without the wrapper no rank waits.
            train(self.network, backward)
            ascent = gradients()
        moves = self._moves(ascent)
        self.notice(*(move for _, move in moves))
        with shifted(moves):
            return train(model, backward)

    def _moves(self, gradients: Moves) -> Moves:
        weights = ((weight, gradient) for weight, gradient in gradients if weight.ndim > 1)
        return [(weight, self._move(weight.detach(), gradient)) for weight, gradient in weights]

    def _move(self, weight: Tensor, gradient: Tensor) -> Tensor:
        # By the largest entry first: squares of small gradients are not floats.
        largest = gradient.abs().max()
        climbs = largest.isfinite() & (largest > 0)
        direction = torch.where(climbs, gradient / torch.where(climbs, largest, 1.0), 0.0)
        length = vector_norm(direction, dtype=torch.promote_types(weight.dtype, torch.float32))
        scale = float(self.gamma) * vector_norm(weight, dtype=length.dtype)
        return (direction * (scale / torch.where(climbs, length, 1.0))).to(weight.dtype)
