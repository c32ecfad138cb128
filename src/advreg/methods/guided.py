"""What guided and nuclear-norm adversarial training have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from advreg import _torch_compat
from advreg.attacks import input_gradient
from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.inputs import logits_of
from advreg.losses import Task, task_of
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Backward, Carried, Criterion
from advreg.methods.output import StepOutput
from advreg.methods.steps import Steps
from advreg.modes import evaluating
from advreg.units import Number, non_negative


@dataclass
class GuidedTraining(AdversarialTraining):
    """J(f(x)) + w D(f(x), f(x')), x' by one step on J(f(x')) + w D(f(x), f(x')).

    The step starts at x plus or minus `noise`, each value's sign at random; the attack runs in
    evaluation mode, what it is compared with is the answer in training mode, as in the authors'
    codes. Both training passes update the batch statistics, the attacked inputs' first.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: Length of the attack's step; None is epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the signs.
        noise: Size of the start; None is half of epsilon, 4/255 at the default.
        weight: The weight w of the difference D in training.
        alternate: Leave D out of every other mini-batch's attack, so that attacks differ.
    """

    training_passes: ClassVar[float] = 2.0
    noise: Number | None = None
    weight: Number = 1.0
    alternate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise = (
            float(self.epsilon) / 2 if self.noise is None else non_negative(self.noise, "noise")
        )
        self.weight = non_negative(self.weight, "weight")
        if not isinstance(self.alternate, bool):
            raise ConfigurationError(f"alternate is {self.alternate!r}; give true or false.")

    @property
    def passes(self) -> float:
        """One for the attack's step, two to train; the attack's clean answer is not counted."""
        return 3.0

    @abstractmethod
    def difference(self, task: Task, clean: Any, attacked: Any) -> Tensor:
        """D of two outputs of the network, a scalar."""

    @abstractmethod
    def present_weight(self) -> float:
        """The weight w at this point of the training."""

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {**super().carries(), "steps": Steps()}

    @property
    def share_done(self) -> float:
        """The share of the training that is done; 1 where its length is not known."""
        steps: Steps = self.carried["steps"]
        return steps.share((self.steps_per_epoch or 0) * (self.epochs or 0))

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`."""
        steps: Steps = self.carried["steps"]
        weight = self.present_weight() if not self.alternate or steps.count % 2 else 0.0
        clean, loss = None, criterion
        if weight:
            with _torch_compat.no_grad():
                clean = logits_of(network(batch.inputs))
            task = task_of(criterion, clean, batch.targets)

            def loss(outputs: Any, targets: Tensor) -> Tensor:
                return criterion(outputs, targets) + weight * self.difference(task, clean, outputs)

        assert self.noise is not None
        start = self.perturbed(batch.inputs, float(self.noise) * self.signs(batch.inputs))
        with evaluating(network):
            gradient = input_gradient(network, start, batch.targets, loss)
        steps.count += 1
        return self.moved(batch.inputs, start, gradient)

    def trained(
        self,
        batch: Batch,
        inputs: Tensor,
        criterion: Criterion,
        model: nn.Module,
        backward: Backward,
    ) -> StepOutput:
        """See `AdversarialTraining.trained`; the outputs are the clean inputs'."""
        attacked, outputs = model(inputs), model(batch.inputs)
        task = task_of(criterion, outputs, batch.targets)
        change = self.difference(task, outputs, attacked)
        self.notice(float(self.weight) * change)
        loss = criterion(outputs, batch.targets) + self.present_weight() * change
        backward(loss)
        return StepOutput.of(loss, outputs, batch.targets, criterion)
