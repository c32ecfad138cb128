"""Layerwise adversarial training together with another method."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from advreg.attacks import Threat
from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.layerwise.budget import Epsilon
from advreg.methods.base import Backward, Carried, Criterion, Method
from advreg.methods.layerwise import Layerwise
from advreg.methods.output import StepOutput

PARTNERS = ("mixup", "sam", "pgd")
"""What layerwise composes with: each has one training pass, the one that is perturbed."""


@dataclass
class Composed(Method):
    """Layerwise with mixup, SAM or PGD training, in any order.

    The other method's training pass is the one that the adversary perturbs and records, once a
    mini-batch: mixup's only pass, SAM's second, PGD's last. Attack passes and SAM's climb run
    paused. Budgets add up.

    Args:
        methods: A `Layerwise` and a `Mixup`, `SAM` or `PGD`.
    """

    name: ClassVar[str] = "composed"
    methods: Sequence[Method]

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        layerwise = [method for method in self.methods if isinstance(method, Layerwise)]
        others = [method for method in self.methods if method.name in PARTNERS]
        if len(layerwise) != 1 or len(others) != 1 or len(names) != 2:
            raise ConfigurationError(
                f"{' and '.join(names) or 'no methods'} cannot be composed;"
                f" give layerwise and one of {', '.join(PARTNERS)}."
            )
        self.layerwise, self.other = layerwise[0], others[0]
        if self.layerwise.memory == "example" and self.other.name == "mixup":
            raise ConfigurationError(
                "layerwise with memory=example and mixup cannot be composed, for a mixed image is"
                " two examples; set memory to slot."
            )

    @property
    def passes(self) -> float:
        """The other method's: the adversary adds none."""
        return self.other.passes

    @property
    def by_example(self) -> bool:
        """See `Method.by_example`."""
        return self.layerwise.by_example or self.other.by_example

    def _examine(self, inputs: Tensor, threat: Threat | None = None) -> None:
        self.layerwise._examine(inputs, threat)  # the other method's step does so itself

    @property
    def epsilon(self) -> Epsilon:
        """The adversary's budget."""
        return self.layerwise.epsilon

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {method.name: method for method in self.methods}

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        for method in (self.layerwise, self.other):
            attached = method.attach(
                network, steps_per_epoch=self.steps_per_epoch, examples=self.examples
            )
            stack.callback(attached.detach)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the other method's, perturbed."""
        return self.other.step(model, self.layerwise.prepare(batch), criterion, backward)
