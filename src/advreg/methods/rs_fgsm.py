"""FGSM training from a random start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from advreg.batch import Batch
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Criterion


@dataclass
class RSFGSM(AdversarialTraining):
    """J(x + delta), delta = clip(d + a sign g(x + d), -epsilon, epsilon), d ~ U(-epsilon, epsilon).

    Wong, Rice and Kolter, ICLR 2020, arXiv 2001.03994.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: The step a; None is 1.25 times epsilon, 10/255 at the default.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the random starts.
    """

    name: ClassVar[str] = "rs_fgsm"
    single_step: ClassVar[bool] = True
    step_share: ClassVar[float] = 1.25

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`."""
        start = self.threat.start(batch.inputs, self.generator(batch.inputs))
        return self.one_step(network, batch, criterion, start)
