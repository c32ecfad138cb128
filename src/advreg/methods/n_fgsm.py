"""FGSM training from a strong noise, unclipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg.attacks import Linf, input_gradient
from advreg.batch import Batch
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Criterion
from advreg.tensors import wide
from advreg.units import Number, non_negative


@dataclass
class NFGSM(AdversarialTraining):
    """J(x + n + a sign g(x + n)), n ~ U(-k epsilon, k epsilon), clamped to the input range alone.

    N-FGSM, de Jorge et al., NeurIPS 2022, arXiv 2202.01181.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: The step a; None is epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the noise.
        noise: Its reach k in units of epsilon.
    """

    name: ClassVar[str] = "n_fgsm"
    single_step: ClassVar[bool] = True
    noise: Number = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise = non_negative(self.noise, "noise")

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`."""
        assert self.step_size is not None
        reach = Linf(float(self.noise) * float(self.epsilon))
        noise = reach.start(batch.inputs, self.generator(batch.inputs))
        noisy = self.perturbed(batch.inputs, noise)
        gradient = input_gradient(network, noisy, batch.targets, criterion)
        step = self.threat.step(wide(torch.zeros_like(noisy)), gradient, float(self.step_size))
        return self.perturbed(noisy, step)
