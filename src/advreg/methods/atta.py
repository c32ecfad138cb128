"""ATTA-1: one attack step an epoch, carried on over the epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.layerwise.example_store import ExampleStore
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Carried, Criterion
from advreg.units import at_least_one

START = 0.001
"""Standard deviation of a new perturbation, as in the authors' code."""


@dataclass
class ATTA(AdversarialTraining):
    """J(x + delta), delta = clip(d + a sign g(x + d), -epsilon, epsilon), d the example's last one.

    Zheng et al., CVPR 2020, arXiv 1912.11969, with one step an epoch. The perturbation lives in
    the frame of the untouched, padded image and is carried through the inverse of crop and flip.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: The step a; None is half of epsilon, 4/255 at the default.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the small noise that a perturbation begins with.
        reset: Epochs (visits of an example) after which its perturbation begins again.
    """

    name: ClassVar[str] = "atta"
    single_step: ClassVar[bool] = True
    step_share: ClassVar[float] = 0.5
    reset: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(reset=self.reset)

    @property
    def by_example(self) -> bool:
        """See `Method.by_example`."""
        return True

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {**super().carries(), "examples": ExampleStore(torch.float16, renew=self.reset)}

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`.

        Raises:
            StateError: The batch does not say which examples it holds.
            UnsupportedError: The batch's view cannot be undone.
        """
        generator = self.generator(batch.inputs)
        fresh = torch.empty_like(batch.inputs).normal_(0, START, generator=generator)
        carried: ExampleStore = self.carried["examples"]
        delta = carried.read(batch.indices, batch.view, fresh)
        inputs = self.one_step(network, batch, criterion, delta)
        carried.write(batch.indices, batch.view, inputs - batch.inputs)
        return inputs
