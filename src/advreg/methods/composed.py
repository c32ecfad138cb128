"""Layerwise adversarial training together with another method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.layerwise.budget import Epsilon
from advreg.methods.base import Backward, Criterion, Method
from advreg.methods.layerwise import Layerwise

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
    def epsilon(self) -> Epsilon:
        """The adversary's budget."""
        return self.layerwise.epsilon

    @contextmanager
    def attach(
        self, model: nn.Module, *, steps_per_epoch: int | None = None, examples: int | None = None
    ) -> Iterator[None]:
        """See `Method.attach`."""
        counts = {"steps_per_epoch": steps_per_epoch, "examples": examples}
        with (
            super().attach(model),
            self.layerwise.attach(model, **counts),
            self.other.attach(model, **counts),
        ):
            yield

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> Tensor:
        """See `Method.step`; the loss is the other method's, perturbed."""
        return self.other.step(model, self.layerwise.prepare(batch), criterion, backward)

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {method.name: method.state_dict() for method in self.methods}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        for method in self.methods:
            method.load_state_dict(state[method.name])
