"""Input gradient regularisation."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from advreg.batch import Batch
from advreg.layerwise.sites import INPUT
from advreg.losses import smoothed
from advreg.methods.activations import SiteHooks
from advreg.methods.base import Backward, Criterion, Method
from advreg.methods.output import StepOutput
from advreg.tensors import rows
from advreg.units import Number, non_negative


@dataclass
class InputGradient(Method):
    """J + weight * mean_i |d CE_i / d x_i|_2^2 by double backpropagation.

    Ross and Doshi-Velez, AAAI 2018, arXiv 1711.09404. CE_i is example i's own loss, so that the
    batch size does not matter. The authors' code multiplies the gradient of the mean loss, which
    makes theirs weight / (2 B) times this mean: their 56,234 at B = 256 is about 110 here.

    Args:
        weight: Lambda, the penalty's weight.
        uniform: Penalise the gradient of the loss against the uniform distribution over the
            classes in place of the targets.
    """

    name: ClassVar[str] = "input_gradient"
    moves_inputs: ClassVar[bool] = True
    weight: Number = 0.01
    uniform: bool = False

    def __post_init__(self) -> None:
        self.weight = non_negative(self.weight, "weight")

    @property
    def passes(self) -> float:
        """One, and the backward pass through its backward pass."""
        return 2.0

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        self._hooks = SiteHooks(network, [INPUT], stack)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the penalised one."""
        with self._hooks.capturing() as seen:
            outputs = model(batch.inputs)
            loss = criterion(outputs, batch.targets)
            penalised = partial(smoothed, criterion, share=1.0) if self.uniform else criterion
            total = len(batch) * penalised(seen.outputs, batch.targets)
            gradient = seen.gradients(total, create_graph=True)[INPUT]
            penalty = float(self.weight) * rows(gradient).square().sum(1).mean()
            self.notice(penalty)
            loss = loss + penalty
            backward(loss)
        return StepOutput.of(loss, outputs, batch.targets, criterion)
