"""FGSM training, mixed with the clean loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from advreg.attacks import Linf
from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.methods.base import Backward, Criterion, Method
from advreg.methods.output import StepOutput
from advreg.tensors import wide
from advreg.units import Number, non_negative


@dataclass
class FGSM(Method):
    """w J(x) + (1 - w) J(x + epsilon sign dJ/dx), w = `clean_weight` (Goodfellow 2015, eq. 4).

    The clean loss's own backward pass gives the gradient at the input, so that the two losses
    take two passes in all.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        clean_weight: The weight of the clean loss, above 0 and at most 1.
        input_range: The perturbed input is clamped to it; None clamps to the network's own
            `input_range` attribute, if it has one.
    """

    name: ClassVar[str] = "fgsm"
    single_step: ClassVar[bool] = True
    epsilon: Number = 8 / 255
    clean_weight: float = 0.5
    input_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.epsilon = non_negative(self.epsilon, "epsilon")
        if not 0 < self.clean_weight <= 1:
            raise ConfigurationError(
                f"clean_weight is {self.clean_weight}; give a weight above 0, at most 1."
            )

    @property
    def passes(self) -> float:
        """One for each loss."""
        return 2.0

    @property
    def threat(self) -> Linf:
        """See `Method.threat`."""
        return Linf(self.epsilon)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the mixed one, the outputs are the attacked inputs'."""
        inputs = batch.inputs.detach().requires_grad_()
        clean = self.clean_weight * criterion(model(inputs), batch.targets)
        backward(clean)
        gradient = torch.zeros_like(inputs) if inputs.grad is None else inputs.grad
        delta = self.threat.step(wide(torch.zeros_like(inputs)), gradient, self.threat.epsilon)
        attacked = self.perturbed(inputs.detach(), delta)
        self.notice(attacked - batch.inputs)
        outputs = model(attacked)
        attacked_loss = (1 - self.clean_weight) * criterion(outputs, batch.targets)
        backward(attacked_loss)
        return StepOutput.of(clean + attacked_loss, outputs, batch.targets, criterion)
