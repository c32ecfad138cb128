"""Plain training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from advreg.batch import Batch
from advreg.methods.base import Backward, Criterion, Method, training_pass
from advreg.methods.output import StepOutput


@dataclass
class Standard(Method):
    """Plain training: one forward and one backward pass, nothing added. The yardstick."""

    name: ClassVar[str] = "standard"
    shards: ClassVar[bool] = True

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`."""
        return training_pass(model, batch, criterion, backward)
