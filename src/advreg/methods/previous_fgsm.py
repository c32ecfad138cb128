"""FGSM training that starts where the last attack ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.layerwise.example_store import ExampleStore
from advreg.layerwise.store import SlotStore
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Carried, Criterion

Start = Literal["batch", "epoch"]


@dataclass
class PreviousFGSM(AdversarialTraining):
    """J(x + delta), delta = clip(d + a sign g(x + d), -epsilon, epsilon), d an earlier delta.

    Jia et al., ECCV 2022, arXiv 2207.08859: its initialisations from the previous batch and the
    previous epoch, without its regulariser. Where there is no earlier delta, d is uniform.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: The step a; None is epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the uniform starts.
        start: "batch": the delta of the same position in the previous mini-batch; "epoch": the
            same example's delta of its last visit, carried through its crop and flip.
    """

    name: ClassVar[str] = "previous_fgsm"
    single_step: ClassVar[bool] = True
    start: Start = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in get_args(Start):
            raise ConfigurationError(f"start is {self.start!r}; choose batch or epoch.")

    @property
    def by_example(self) -> bool:
        """See `Method.by_example`."""
        return self.start == "epoch"

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        store = SlotStore() if self.start == "batch" else ExampleStore(torch.float16)
        return {**super().carries(), self.start: store}

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`.

        Raises:
            StateError: The start is the example's own, and the batch does not say which.
            UnsupportedError: So is it, and the batch's view cannot be undone.
        """
        store = self.carried[self.start]
        whose = (batch.indices, batch.view) if self.start == "epoch" else ()
        fresh = self.threat.start(batch.inputs, self.generator(batch.inputs))
        inputs = self.one_step(network, batch, criterion, store.read(*whose, fresh))
        store.write(*whose, inputs - batch.inputs)
        return inputs
