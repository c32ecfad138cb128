"""FGSM training from an initialisation that earlier epochs guide, with a regulariser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.layerwise.example_store import ExampleStore
from advreg.losses import smoothed, task_of
from advreg.methods.adversarial import AttackingMethod, gradient_of
from advreg.methods.base import Backward, Carried, Criterion
from advreg.methods.output import StepOutput
from advreg.tensors import finite, wide
from advreg.units import Number, at_least_one, non_negative


@dataclass
class FGSMPGI(AttackingMethod):
    """J(f(x + delta)) + w mean (f(x + delta) - f(x + d))^2, d the example's own prior.

    delta = clip(d + a sign g, -epsilon, epsilon) with g = dJ(f(x + d))/dx. Jia et al., ECCV 2022,
    arXiv 2207.08859. The prior of the next epoch is that of FGSM-MEP,

        m <- g / mean|g| + mu m,    d <- clip(d + a sign m, -epsilon, epsilon),

    the scale of g as in the authors' code; with mu = 0 it is FGSM-EP's. m and d live in the frame
    of the untouched, padded image and are carried through the inverse of crop and flip. J is with
    relaxed labels. Both passes train, and update the batch statistics.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: The step a; None is epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the signs that a prior begins with, times epsilon.
        momentum: The decay mu of the prior's momentum.
        weight: The weight w of the regulariser.
        true_share: What relaxed labels leave of the true class, the rest goes to the others in
            equal parts; 1 leaves the labels as they are.
        reset: Epochs (visits of an example) after which its prior begins again.
    """

    name: ClassVar[str] = "fgsm_pgi"
    single_step: ClassVar[bool] = True
    momentum: Number = 0.3
    weight: Number = 10.0
    true_share: float = 0.6
    reset: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        self.momentum = non_negative(self.momentum, "momentum")
        self.weight = non_negative(self.weight, "weight")
        at_least_one(reset=self.reset)
        if not 0.5 <= self.true_share <= 1:
            raise ConfigurationError(
                f"true_share is {self.true_share}; give a share from 0.5 to 1, so that the true"
                " class stays the likeliest."
            )

    @property
    def passes(self) -> float:
        """Backward passes: one for the attack's step, one through each of two forward passes."""
        return 3.0

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        priors = {"priors": ExampleStore(torch.float16, renew=self.reset)}
        if self.momentum:  # in bfloat16, whose range holds any ratio of two gradients
            priors["momentum"] = ExampleStore(torch.bfloat16, renew=self.reset)
        return {**super().carries(), **priors}

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the whole sum, the outputs are the attacked inputs'.

        Raises:
            StateError: The batch does not say which examples it holds.
            UnsupportedError: The batch's view cannot be undone.
        """
        start = self._start(batch).requires_grad_()
        before = model(start)
        task = task_of(criterion, before, batch.targets)
        relaxed = partial(self._relaxed, criterion, task.class_logits(before).shape[1])
        gradient = gradient_of(relaxed(before, batch.targets), start)
        start = start.detach()
        inputs = self.moved(batch.inputs, start, gradient)
        self.notice(inputs - batch.inputs)
        self._keep(batch, start, gradient)
        outputs = model(inputs)
        change = task.class_logits(outputs) - task.class_logits(before)
        loss = relaxed(outputs, batch.targets) + float(self.weight) * change.square().mean()
        backward(loss)
        return StepOutput.of(loss, outputs, batch.targets, criterion)

    def _relaxed(
        self, criterion: Criterion, classes: int, outputs: Tensor, targets: Tensor
    ) -> Tensor:
        return relaxed_loss(criterion, outputs, targets, self.true_share, classes)

    def _start(self, batch: Batch) -> Tensor:
        fresh = float(self.epsilon) * self.signs(batch.inputs)
        delta = self.carried["priors"].read(batch.indices, batch.view, fresh)
        return self.perturbed(batch.inputs, delta).detach()

    def _keep(self, batch: Batch, start: Tensor, gradient: Tensor) -> None:
        """The priors of the next epoch."""
        direction, whose = wide(finite(gradient)), (batch.indices, batch.view)
        direction = direction / direction.abs().mean().clamp_min(torch.finfo(direction.dtype).tiny)
        if self.momentum:
            momentum: ExampleStore = self.carried["momentum"]
            earlier = momentum.read(*whose, torch.zeros_like(direction))
            direction = direction + float(self.momentum) * earlier
            momentum.write(*whose, direction)
        following = self.moved(batch.inputs, start, direction)
        self.carried["priors"].write(*whose, following - batch.inputs)


def relaxed_loss(
    criterion: Criterion, outputs: Tensor, targets: Tensor, true_share: float, classes: int
) -> Tensor:
    """The loss where labels leave `true_share` to the true class and the rest to the others.

    The others share equally; probabilities as targets are relaxed alike. It is the loss of
    `smoothed` with another name for the share.
    """
    return smoothed(criterion, outputs, targets, (1 - true_share) * classes / (classes - 1))
