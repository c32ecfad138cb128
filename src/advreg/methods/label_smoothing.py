"""Label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.losses import smoothed
from advreg.methods.base import Backward, Criterion, Method
from advreg.methods.output import StepOutput


@dataclass
class LabelSmoothing(Method):
    """J with a share of each target spread evenly over all classes (Szegedy et al., CVPR 2016).

    For a cross entropy it is (1 - s) J(y) + s times the mean over the classes k of J(k), torch's
    own `label_smoothing`. Another criterion must take class probabilities as targets.

    Args:
        smoothing: The share s, from 0 up to but not 1.
    """

    name: ClassVar[str] = "label_smoothing"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigurationError(
                f"smoothing is {self.smoothing}; give a share from 0 up to but not 1."
            )

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the smoothed one, the targets are the given ones."""
        outputs = model(batch.inputs)
        loss = smoothed(criterion, outputs, batch.targets, self.smoothing)
        backward(loss)
        return StepOutput.of(loss, outputs, batch.targets, criterion)
