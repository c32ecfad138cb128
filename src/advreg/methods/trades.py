"""TRADES: accuracy on the clean inputs, and the same answer nearby."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg import _torch_compat
from advreg.attacks import input_gradient
from advreg.batch import Batch
from advreg.inputs import logits_of
from advreg.losses import task_of
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Backward, Criterion
from advreg.methods.output import StepOutput
from advreg.modes import evaluating
from advreg.units import Number, at_least_one, non_negative

START = 0.001
"""Standard deviation of the start: at the clean input itself the divergence has no gradient."""


@dataclass
class TRADES(AdversarialTraining):
    """J(f(x)) + beta KL(f(x) || f(x')), x' by k projected steps on that divergence.

    Zhang et al., ICML 2019, arXiv 1901.08573. The divergence is the mean over the mini-batch of
    sums over classes, as in the authors' code; its gradient flows through both answers. The
    attack runs in evaluation mode, both training passes update the batch statistics.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: Length of a step; None is 0.007 at the default epsilon, and in proportion.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the starts.
        beta: The weight of the divergence; more is more robust and less accurate.
        steps: Gradient steps k a mini-batch.
    """

    name: ClassVar[str] = "trades"
    training_passes: ClassVar[float] = 2.0
    step_share: ClassVar[float] = 0.007 / (8 / 255)
    beta: Number = 6.0
    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.beta = non_negative(self.beta, "beta")
        at_least_one(steps=self.steps)

    @property
    def passes(self) -> float:
        """One for each step, two to train; the attack's clean answer is not counted."""
        return self.steps + 2.0

    def trained(
        self,
        batch: Batch,
        inputs: Tensor,
        criterion: Criterion,
        model: nn.Module,
        backward: Backward,
    ) -> StepOutput:
        """See `AdversarialTraining.trained`; the outputs are the clean inputs'."""
        outputs = model(batch.inputs)
        loss = criterion(outputs, batch.targets)
        task = task_of(criterion, outputs, batch.targets)
        change = float(self.beta) * task.divergence(outputs, model(inputs))
        self.notice(change)
        loss = loss + change
        backward(loss)
        return StepOutput.of(loss, outputs, batch.targets, criterion)

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`; the criterion says what the outputs mean."""
        inputs = batch.inputs.detach()
        noise = torch.empty_like(inputs).normal_(0, START, generator=self.generator(inputs))
        attacked = inputs + noise
        with evaluating(network):
            with _torch_compat.no_grad():
                expected = logits_of(network(inputs))
            task = task_of(criterion, expected, batch.targets)
            for _ in range(self.steps):
                gradient = input_gradient(
                    network,
                    attacked,
                    expected,
                    lambda outputs, clean: task.divergence(clean, outputs),
                )
                attacked = self.moved(inputs, attacked, gradient)
        return attacked
