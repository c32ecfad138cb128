"""FGSM training with gradient alignment."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg.attacks import input_gradient
from advreg.batch import Batch
from advreg.layerwise import paused
from advreg.layerwise.sites import INPUT
from advreg.methods.activations import SiteHooks
from advreg.methods.adversarial import AttackingMethod
from advreg.methods.base import Backward, Criterion, training_pass
from advreg.methods.output import StepOutput
from advreg.modes import frozen_statistics
from advreg.tensors import finite, rows
from advreg.units import Number, non_negative


@dataclass
class GradAlign(AttackingMethod):
    """J(x + a sign g(x)) + w (1 - mean_i cos(g(x_i), g(x_i + eta_i))), eta ~ U(-epsilon, epsilon).

    Andriushchenko and Flammarion, NeurIPS 2020, arXiv 2007.02617: FGSM training, and GradAlign.
    g(x) is the one that the attack's step takes; as in the authors' training code the alignment's
    gradient flows through g(x + eta) alone. Examples where a gradient is zero are left out. The
    alignment's pass leaves the batch statistics alone.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: The step a, cut off at epsilon; None is epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the random points eta.
        weight: The weight w of the alignment.
    """

    name: ClassVar[str] = "gradalign"
    single_step: ClassVar[bool] = True
    weight: Number = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weight = non_negative(self.weight, "weight")

    @property
    def passes(self) -> float:
        """The attack's step, the training pass, and g(x + eta) with the way back through it."""
        return 4.0

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        self._hooks = SiteHooks(network, [INPUT], stack)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the whole sum, the outputs are the attacked inputs'."""
        with self.extra_pass() as network:
            gradient = input_gradient(network, batch.inputs, batch.targets, criterion)
        inputs = self.moved(batch.inputs, batch.inputs, gradient)
        self.notice(inputs - batch.inputs)
        trained = training_pass(model, batch.with_inputs(inputs), criterion, backward)
        eta = self.threat.start(batch.inputs, self.generator(batch.inputs))
        noisy = self.perturbed(batch.inputs, eta)
        with (
            paused(self.network),
            frozen_statistics(self.network),
            self._hooks.capturing() as seen,
        ):
            model(noisy)
            total = len(batch) * criterion(seen.outputs, batch.targets)
            beside = seen.gradients(total, create_graph=True)[INPUT]
            misaligned = float(self.weight) * _misalignment(gradient, beside)
            backward(misaligned)
        return replace(trained, loss=trained.loss + misaligned.detach())


def _misalignment(gradient: Tensor, beside: Tensor) -> Tensor:
    """1 - cosine, the mean over the examples that have both gradients; 0 where none has."""
    cosines, both = [], []
    for one in (rows(finite(gradient)), rows(beside)):
        # A cosine does not depend on scale, and squares of very small values are not floats.
        largest = one.detach().abs().amax(1, keepdim=True)
        some = (largest > 0) & largest.isfinite()
        scaled = torch.where(some, one / torch.where(some, largest, 1.0), 0.0)
        length = torch.where(some, scaled.square().sum(1, keepdim=True), 1.0).sqrt()
        cosines.append(scaled / length)
        both.append(some.squeeze(1))
    counted = both[0] & both[1]
    distances = 1 - (cosines[0] * cosines[1]).sum(1)
    return torch.where(counted, distances, 0.0).sum() / counted.sum().clamp_min(1)
