"""Mixup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.methods.base import Backward, Carried, Criterion, Method
from advreg.methods.output import StepOutput
from advreg.randomness import Generators
from advreg.units import Number, number

CPU = torch.device("cpu")


@dataclass
class Mixup(Method):
    """lam J(x~, y_a) + (1 - lam) J(x~, y_b) with x~ = lam x_a + (1 - lam) x_b.

    Zhang et al., ICLR 2018, arXiv 1710.09412. b is a permutation of the mini-batch a; lam is
    drawn once a mini-batch.

    Args:
        concentration: Of the distribution Beta(concentration, concentration) of lam, above 0.
        seed: Of the permutations and the lams.
    """

    name: ClassVar[str] = "mixup"
    moves_inputs: ClassVar[bool] = True
    concentration: Number = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.concentration = number(self.concentration, "concentration")
        if self.concentration <= 0:
            raise ConfigurationError(
                f"concentration is {self.concentration}; give a number above 0."
            )

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {"generators": Generators(self.seed)}

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the mixed one, the targets are the mixed probabilities."""
        share, order = self.draw(len(batch))
        other = batch.select(order.to(batch.inputs.device))
        outputs = model(share * batch.inputs + (1 - share) * other.inputs)
        loss = share * criterion(outputs, batch.targets)
        loss = loss + (1 - share) * criterion(outputs, other.targets)
        backward(loss)
        return StepOutput.mixed(loss, outputs, (batch.targets, other.targets), share, criterion)

    def draw(self, size: int) -> tuple[float, Tensor]:
        """The next lam and permutation, (size,) int64 on the CPU, the same on every device."""
        generator = self.carried["generators"].on(CPU)
        # PyTorch's Beta draws from the global stream only; NumPy's takes a seed of its own.
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        concentration = float(self.concentration)
        share = np.random.default_rng(seed).beta(concentration, concentration)
        return share, torch.randperm(size, generator=generator)
