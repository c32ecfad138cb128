"""What one training step has trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advreg.inputs import logits_of
from advreg.losses import Criterion, Task, task_of


@dataclass(frozen=True)
class StepOutput:
    """What one step has trained on.

    Attributes:
        loss: The loss whose gradient was taken, a detached scalar.
        outputs: The logits that were trained on, (B, K) or as the network returns them, detached.
        targets: What the logits are to give: (B,) classes, or probabilities in their shape.
        hard_labels: Whether the targets are classes.
        task: What the outputs mean; None finds it by the shapes.
        mixture: Weights, and the targets that `targets` are the sum of; empty where it is none.
    """

    loss: Tensor
    outputs: Tensor
    targets: Tensor
    hard_labels: bool
    task: Task | None = None
    mixture: tuple[tuple[float, Tensor], ...] = ()

    @classmethod
    def of(
        cls, loss: Tensor, outputs: Any, targets: Tensor, criterion: Criterion | None = None
    ) -> StepOutput:
        """From a loss and the outputs of the network, with their graphs.

        Args:
            loss: A scalar.
            outputs: What the network returned.
            targets: What they are compared with.
            criterion: That compares them, and says what they mean.
        """
        hard = not targets.is_floating_point()
        task = None if criterion is None else task_of(criterion, outputs, targets)
        return cls(loss.detach(), logits_of(outputs).detach(), targets.detach(), hard, task)

    @classmethod
    def mixed(
        cls,
        loss: Tensor,
        outputs: Any,
        targets: tuple[Tensor, Tensor],
        share: float,
        criterion: Criterion,
    ) -> StepOutput:
        """Of a mini-batch whose first targets count `share` and whose second the rest."""
        task, weights = task_of(criterion, outputs, targets[0]), (share, 1 - share)
        mixture = tuple(zip(weights, targets, strict=True))
        sums = sum(weight * task.shares(outputs, one) for weight, one in mixture)
        assert isinstance(sums, Tensor)
        return cls(loss.detach(), logits_of(outputs).detach(), sums.float(), False, task, mixture)

    def correct(self) -> Tensor:
        """How many examples are right, a scalar; not a number for a regression.

        An example of several labels or positions counts as the share of them that is right. Where
        the targets are probabilities, those that they give to the predicted classes are summed.
        On an accelerator it waits for the outputs to be computed.
        """
        task = task_of(None, self.outputs, self.targets) if self.task is None else self.task
        if task.kind == "regression":
            return self.loss.new_full((), torch.nan)
        parts = self.mixture or ((1.0, self.targets),)
        counts = [weight * task.accuracy(self.outputs, one).sum() for weight, one in parts]
        return torch.stack(counts).sum()
