"""MART: adversarial training that looks at misclassified examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advreg.attacks import input_gradient
from advreg.batch import Batch
from advreg.losses import Task, task_of
from advreg.methods.base import Backward, Criterion
from advreg.methods.output import StepOutput
from advreg.methods.trades import START, TRADES
from advreg.modes import evaluating
from advreg.units import Number

ABOVE_ONE = 1.0001
"""In place of 1 in the margin's logarithm, as in the authors' code: a probability may be 1."""


@dataclass
class MART(TRADES):
    """J(x') - log(1 - max_{k != y} p_k(x')) + beta KL(p(x) || p(x')) (1 - p_y(x)).

    Wang et al., ICLR 2020, "Improving adversarial robustness requires revisiting misclassified
    examples": the boosted cross entropy, and the divergence weighted by how wrong the clean answer
    is. x' by k projected steps on J from x + 0.001 N(0, 1), in evaluation mode as in the authors'
    code; both training passes update the batch statistics, the clean inputs' first. What it shares
    with TRADES are the settings, the start and the passes.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: Length of a step; None is 0.007 at the default epsilon, and in proportion.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the starts.
        beta: The weight of the divergence, the paper's lambda.
        steps: Gradient steps k a mini-batch.
    """

    name: ClassVar[str] = "mart"
    beta: Number = 5.0

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`."""
        inputs = batch.inputs.detach()
        noise = torch.empty_like(inputs).normal_(0, START, generator=self.generator(inputs))
        attacked = inputs + noise
        with evaluating(network):
            for _ in range(self.steps):
                gradient = input_gradient(network, attacked, batch.targets, criterion)
                attacked = self.moved(inputs, attacked, gradient)
        return attacked

    def trained(
        self,
        batch: Batch,
        inputs: Tensor,
        criterion: Criterion,
        model: nn.Module,
        backward: Backward,
    ) -> StepOutput:
        """See `AdversarialTraining.trained`; the outputs are the attacked inputs'."""
        self.notice(inputs - batch.inputs)
        clean, outputs = model(batch.inputs), model(inputs)
        task = task_of(criterion, outputs, batch.targets)
        margin, change = _terms(task, clean, outputs, batch.targets)
        loss = criterion(outputs, batch.targets) + margin + float(self.beta) * change
        backward(loss)
        return StepOutput.of(loss, outputs, batch.targets, criterion)


def _terms(task: Task, clean: Any, attacked: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The margin term and the weighted divergence, means over examples and positions.

    Probabilities as targets stand for their most likely class in the margin, and weigh the clean
    answer by what it gives to them.
    """
    log_p = task.class_logits(clean).log_softmax(1)
    log_q = task.class_logits(attacked).log_softmax(1)
    classes = task.class_targets(attacked, targets)
    if classes.is_floating_point():
        shares, counted = classes, torch.ones_like(classes[:, 0], dtype=torch.bool)
    else:
        counted = classes != task.ignore_index
        shares = torch.zeros_like(log_p).scatter(1, (classes * counted).unsqueeze(1), 1.0)
    right = torch.zeros_like(log_q, dtype=torch.bool).scatter(
        1, shares.argmax(1, keepdim=True), True
    )
    others = log_q.exp().masked_fill(right, 0.0).amax(1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1)
    weights = 1 - (shares * log_p.exp()).sum(1)
    number = counted.sum().clamp_min(1)
    margin = -((ABOVE_ONE - others).log() * counted).sum() / number
    return margin, (divergence * weights * counted).sum() / number
