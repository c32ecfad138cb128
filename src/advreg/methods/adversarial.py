"""What the methods that train on attacked inputs have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg.attacks import Linf, Threat, input_gradient
from advreg.batch import Batch
from advreg.methods.base import (
    Backward,
    Carried,
    Criterion,
    Method,
    TrainingPasses,
    training_pass,
)
from advreg.methods.checks import check_scalar
from advreg.methods.output import StepOutput
from advreg.randomness import Generators
from advreg.tensors import precision, wide
from advreg.units import Number, non_negative


@dataclass
class AttackingMethod(Method):
    """What attacks of one step or several share: budget, step, range and random numbers.

    Args:
        epsilon: The budget in units of the input; fractions such as "8/255" are read.
        step_size: Length of the attack's step; None is `step_share` times epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the attack's random numbers.
    """

    step_share: ClassVar[float] = 1.0
    epsilon: Number = 8 / 255
    step_size: Number | None = None
    input_range: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.epsilon = non_negative(self.epsilon, "epsilon")
        self.step_size = (
            self.step_share * self.epsilon
            if self.step_size is None
            else non_negative(self.step_size, "step_size")
        )

    @property
    def threat(self) -> Threat:
        """Where the attack may go."""
        return Linf(self.epsilon)

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`: the attack's random numbers."""
        return {"generators": Generators(self.seed)}

    def generator(self, inputs: Tensor) -> torch.Generator:
        """The random numbers for inputs on their device."""
        generators: Generators = self.carried["generators"]
        return generators.on(inputs.device)

    def signs(self, inputs: Tensor) -> Tensor:
        """Plus or minus one at random for each value of the inputs, in at least float32."""
        draws = torch.rand(
            inputs.shape,
            generator=self.generator(inputs),
            dtype=precision(inputs),
            device=inputs.device,
        )
        return torch.where(draws < 0.5, 1.0, -1.0).to(draws.dtype)

    def one_step(
        self, network: nn.Module, batch: Batch, criterion: Criterion, delta: Tensor
    ) -> Tensor:
        """Inputs (B, ...) after one projected step on the criterion from perturbation `delta`."""
        start = self.perturbed(batch.inputs, delta)
        gradient = input_gradient(network, start, batch.targets, criterion)
        return self.moved(batch.inputs, start, gradient)

    def moved(self, inputs: Tensor, attacked: Tensor, gradient: Tensor) -> Tensor:
        """Attacked inputs (B, ...) one step along a gradient, back within budget and range."""
        assert self.step_size is not None
        delta = self.threat.step(wide(attacked) - wide(inputs), gradient, float(self.step_size))
        return self.perturbed(inputs, self.threat.project(delta))


@dataclass
class AdversarialTraining(AttackingMethod):
    """J(x + delta): an attack on the network as it is, then one training pass.

    Args:
        epsilon: The budget in units of the input; fractions such as "8/255" are read.
        step_size: Length of the attack's step; None is `step_share` times epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the attack's random numbers.
    """

    splits: ClassVar[bool] = True

    @property
    def passes(self) -> float:
        """One for the attack's step, one to train."""
        return 2.0

    @abstractmethod
    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """The inputs (B, ...) to train on; `network` is lent by `extra_pass`."""

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss and the outputs are those of the attacked inputs."""
        return self.prepared(batch, criterion)(model, backward)

    def prepared(self, batch: Batch, criterion: Criterion) -> TrainingPasses:
        """See `Method.prepared`."""
        with self.extra_pass() as network:
            inputs = self.attacked(network, batch, criterion)
        return partial(self.trained, batch, inputs, criterion)

    def trained(
        self,
        batch: Batch,
        inputs: Tensor,
        criterion: Criterion,
        model: nn.Module,
        backward: Backward,
    ) -> StepOutput:
        """Trains on a mini-batch and its attacked `inputs`, (B, ...); the rest as in `step`."""
        self.notice(inputs - batch.inputs)
        return training_pass(model, batch.with_inputs(inputs), criterion, backward)


def gradient_of(loss: Tensor, inputs: Tensor) -> Tensor:
    """The gradient at the inputs of a mean loss whose graph is still to be trained through.

    Args:
        loss: A scalar, the mean over the inputs' examples.
        inputs: (B, ...), which the loss was computed from and which ask for a gradient.

    Returns:
        Of the losses' sum, as `input_gradient` does; zero where gradients end before the inputs.
    """
    check_scalar(loss)
    (gradient,) = torch.autograd.grad(
        loss * len(inputs), inputs, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(inputs) if gradient is None else gradient
