"""Taxonomy-driven fast adversarial training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.layerwise.store import SlotStore
from advreg.losses import Task, task_of
from advreg.methods.adversarial import AttackingMethod, gradient_of
from advreg.methods.base import Backward, Carried, Criterion
from advreg.methods.fgsm_pgi import relaxed_loss
from advreg.methods.output import StepOutput
from advreg.methods.steps import Steps
from advreg.units import Number, non_negative

LEAST = 0.05
"""The least `true_share` that is chosen, the paper's where there are 100 classes."""


@dataclass
class TDAT(AttackingMethod):
    """J(f(x + delta)) + w |f(x + delta) - f(x + d)|_2^2 tanh(1 - p_y(x + d)) (equation 8).

    delta = clip(d + a sign dJ(f(x + d))/dx, -epsilon, epsilon). Tong, Jiang, Gui and Cao, AAAI
    2024, "Taxonomy driven fast adversarial training". The start d belongs to the position in the
    mini-batch, is uniform at first and then d <- m d + (1 - m) delta (equations 4 and 5). J is
    with relaxed labels (equation 6), which leave the true class
    max(gamma, beta tanh(1 - t / T)) after the share t / T of the training (equation 7). As in the
    authors' code the clean answer of equation 8 is that at x + d, which the attack's step needs
    anyway, and trains too. Both passes update the batch statistics.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: The step a; None is epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the uniform starts.
        momentum: The momentum m of the start.
        weight: The weight w of the regulariser.
        true_share: The least gamma that relaxed labels leave of the true class; None is 1.5 over
            the number of classes, at least 0.05: 0.15 of 10 classes, 0.05 of 100.
        scale: The scale beta of what they leave early in training.
    """

    name: ClassVar[str] = "tdat"
    single_step: ClassVar[bool] = True
    momentum: Number = 0.75
    weight: Number = 0.6
    true_share: float | None = None
    scale: Number = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        self.momentum = non_negative(self.momentum, "momentum")
        self.weight = non_negative(self.weight, "weight")
        self.scale = non_negative(self.scale, "scale")
        if self.true_share is not None and not 0 < self.true_share <= 1:
            raise ConfigurationError(
                f"true_share is {self.true_share}; give a share above 0, at most 1."
            )
        for name in ("momentum", "scale"):
            if float(getattr(self, name)) > 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; give a number from 0 to 1."
                )

    @property
    def passes(self) -> float:
        """Backward passes: one for the attack's step, one through each of two forward passes."""
        return 3.0

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {**super().carries(), "starts": SlotStore(), "steps": Steps()}

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the whole sum, the outputs are the attacked inputs'."""
        starts: SlotStore = self.carried["starts"]
        delta = starts.read(self.threat.start(batch.inputs, self.generator(batch.inputs)))
        start = self.perturbed(batch.inputs, delta).detach().requires_grad_()
        before = model(start)
        task = task_of(criterion, before, batch.targets)
        classes = task.class_logits(before).shape[1]
        relaxed = partial(relaxed_loss, criterion, true_share=self.left(classes), classes=classes)
        gradient = gradient_of(relaxed(before, batch.targets), start)
        inputs = self.moved(batch.inputs, start.detach(), gradient)
        moved, m = inputs - batch.inputs, float(self.momentum)
        self.notice(moved)
        starts.write(m * delta + (1 - m) * moved)
        self.carried["steps"].count += 1
        outputs = model(inputs)
        change = float(self.weight) * _change(task, before, outputs, batch.targets)
        loss = relaxed(outputs, batch.targets) + change
        backward(loss)
        return StepOutput.of(loss, outputs, batch.targets, criterion)

    def left(self, classes: int) -> float:
        """What relaxed labels leave of the true class at this point of the training.

        Raises:
            ConfigurationError: It is less than what they give to each other class.
        """
        least = max(1.5 / classes, LEAST) if self.true_share is None else self.true_share
        if least < 1 / classes:
            raise ConfigurationError(
                f"true_share is {least} of {classes} classes, so that relaxed labels would name"
                f" the wrong ones; give at least {1 / classes:.3g}, or leave it out."
            )
        steps: Steps = self.carried["steps"]
        done = steps.share((self.steps_per_epoch or 0) * (self.epochs or 0))
        return max(least, float(self.scale) * math.tanh(1 - done))


def _change(task: Task, before: Any, after: Any, targets: Tensor) -> Tensor:
    """|f(x + delta) - f(x + d)|^2 tanh(1 - p_y(x + d)), the mean over examples and positions."""
    logits, classes = task.class_logits(before), task.class_targets(before, targets)
    square = (task.class_logits(after) - logits).square().sum(1)
    p = logits.softmax(1)
    if classes.is_floating_point():
        return (square * torch.tanh(1 - (p * classes).sum(1))).mean()
    counted = classes != task.ignore_index
    right = p.gather(1, (classes * counted).unsqueeze(1)).squeeze(1)
    return (square * torch.tanh(1 - right) * counted).sum() / counted.sum().clamp_min(1)
