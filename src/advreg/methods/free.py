"""Free adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import nn

from advreg.attacks import Linf
from advreg.batch import Batch
from advreg.layerwise.example_store import ExampleStore
from advreg.layerwise.store import SlotStore
from advreg.methods.base import (
    Backward,
    Carried,
    Criterion,
    Method,
    training_pass,
)
from advreg.methods.output import StepOutput
from advreg.units import Number, at_least_one, choice, non_negative

FreeMemory = Literal["slot", "example"]


@dataclass
class Free(Method):
    """J(x + delta), each mini-batch m times; each backward pass moves the weights and delta.

    delta <- clip(delta + a sign g(x + delta), -epsilon, epsilon). Delta belongs to the position
    in the mini-batch, starts at zero and is kept from one mini-batch to the next. Shafahi et al.,
    NeurIPS 2019, arXiv 1904.12843. The epochs are to be divided by m for equal cost. With
    `memory="example"`, ours, delta belongs to the example and is carried over the epochs, through
    the inverse of crop and flip.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: The step a; None is epsilon.
        replays: How often m each mini-batch is trained on.
        input_range: Perturbed inputs are clamped to it; None takes the network's own.
        memory: "slot", the paper's: delta is what the position in the previous mini-batch left;
            or "example": what the example's own last visit left.
    """

    name: ClassVar[str] = "free"
    single_step: ClassVar[bool] = True
    epsilon: Number = 8 / 255
    step_size: Number | None = None
    replays: int = 8
    input_range: tuple[float, float] | None = None
    memory: FreeMemory = "slot"

    def __post_init__(self) -> None:
        choice("memory", self.memory, get_args(FreeMemory))
        self.epsilon = non_negative(self.epsilon, "epsilon")
        self.step_size = (
            self.epsilon if self.step_size is None else non_negative(self.step_size, "step_size")
        )
        at_least_one(replays=self.replays)

    @property
    def threat(self) -> Linf:
        """See `Method.threat`."""
        return Linf(self.epsilon)

    @property
    def by_example(self) -> bool:
        """See `Method.by_example`."""
        return self.memory == "example"

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        if self.by_example:
            return {"examples": ExampleStore(torch.float16)}
        return {"slots": SlotStore()}

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; one replay.

        Raises:
            StateError: The memory is the example's, and the batch does not say which it holds.
            UnsupportedError: So is it, and the batch's view cannot be undone.
        """
        assert self.step_size is not None
        threat, (store,) = self.threat, self.carried.values()
        whose = (batch.indices, batch.view) if self.by_example else ()
        delta = store.read(*whose, torch.zeros_like(batch.inputs))
        inputs = self.perturbed(batch.inputs, delta).detach().requires_grad_()
        trained = training_pass(model, batch.with_inputs(inputs), criterion, backward)
        gradient = torch.zeros_like(delta) if inputs.grad is None else inputs.grad
        delta = threat.project(threat.step(delta, gradient, float(self.step_size)))
        self.notice(delta)
        store.write(*whose, delta)
        return trained
