"""Layerwise adversarial training or weight perturbation together with another method."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from advreg.attacks import Threat
from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.layerwise.budget import AUTO
from advreg.methods.awp import AWP
from advreg.methods.base import Backward, Carried, Criterion, Method
from advreg.methods.layerwise import Layerwise
from advreg.methods.output import StepOutput

PARTNERS = ("mixup", "sam", "pgd")
"""What layerwise composes with: each has one training pass, the one that is perturbed."""


@dataclass
class Composed(Method):
    """Layerwise with mixup, SAM or PGD training, or AWP with a method whose step splits.

    With layerwise, the other method's training pass is the one that the adversary perturbs and
    records, once a mini-batch: mixup's only pass, SAM's second, PGD's last. Attack passes and
    SAM's climb run paused. Budgets add up. With AWP, the other method's attack runs once, its
    training passes twice: at the weights, paused, for the ascent, and at the moved weights.

    Args:
        methods: A `Layerwise` and a `Mixup`, `SAM` or `PGD`; or an `AWP` and a `Layerwise` or a
            method that trains on attacked inputs; in any order.
    """

    name: ClassVar[str] = "composed"
    methods: Sequence[Method]

    def __post_init__(self) -> None:
        self.addition, self.other = _parts(self.methods)
        if any(isinstance(one, Layerwise) and one.epsilon == AUTO for one in self.methods):
            raise ConfigurationError(
                'layerwise with epsilon="auto" follows the loss of plain training; composed with'
                " another method, give it a number."
            )
        if (
            isinstance(self.addition, Layerwise)
            and self.addition.memory == "example"
            and self.other.name == "mixup"
        ):
            raise ConfigurationError(
                "layerwise with memory=example and mixup cannot be composed, for a mixed image is"
                " two examples; set memory to slot."
            )

    @property
    def passes(self) -> float:
        """The other method's, to which layerwise adds none and AWP the training passes again."""
        again = self.other.training_passes if isinstance(self.addition, AWP) else 0.0
        return self.other.passes + again

    @property
    def by_example(self) -> bool:
        """See `Method.by_example`."""
        return any(method.by_example for method in self.methods)

    @property
    def single_step(self) -> bool:  # type: ignore[override]
        """The other method's."""
        return self.other.single_step

    @property
    def monitored(self) -> float:
        """See `Method.monitored`; the largest of the parts'."""
        return max(method.monitored for method in self.methods)

    def _examine(self, inputs: Tensor, threat: Threat | None = None) -> None:
        # With layerwise, the other method's step looks at its own part itself.
        looks = self.addition if isinstance(self.addition, Layerwise) else self.other
        looks._examine(inputs, looks.threat)

    @property
    def epsilon(self) -> Any:
        """The adversary's budget, or with AWP the other method's."""
        part = self.addition if isinstance(self.addition, Layerwise) else self.other
        return getattr(part, "epsilon", None)

    def validated(self, loss: float) -> None:
        """See `Method.validated`; each part is told."""
        for method in self.methods:
            method.validated(loss)

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {method.name: method for method in self.methods}

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        for method in (self.addition, self.other):
            attached = method.attach(
                network,
                steps_per_epoch=self.steps_per_epoch,
                examples=self.examples,
                epochs=self.epochs,
            )
            stack.callback(attached.detach)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the other method's, perturbed."""
        if isinstance(self.addition, AWP):
            self.addition.check(batch.inputs)
            self.other.check(batch.inputs, self.other.threat)
            return self.addition.around(self.other.prepared(batch, criterion), model, backward)
        return self.other.step(model, self.addition.prepare(batch), criterion, backward)


def _parts(methods: Sequence[Method]) -> tuple[Layerwise | AWP, Method]:
    """What is added, and what it is added to.

    Raises:
        ConfigurationError: They cannot be composed.
    """
    for kind in (AWP, Layerwise):
        additions = [method for method in methods if isinstance(method, kind)]
        others = [method for method in methods if not isinstance(method, kind)]
        if len(additions) != 1 or len(others) != 1:
            continue
        if others[0].splits if kind is AWP else others[0].name in PARTNERS:
            return additions[0], others[0]
    raise ConfigurationError(
        f"{' and '.join(method.name for method in methods) or 'no methods'} cannot be composed;"
        f" give layerwise and one of {', '.join(PARTNERS)}, or awp and layerwise or a method that"
        " trains on attacked inputs, such as pgd or trades."
    )
