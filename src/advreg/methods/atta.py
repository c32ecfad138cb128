"""ATTA-1: one attack step an epoch, carried on over the epochs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advreg.attacks.checks import at_least_one
from advreg.batch import Batch
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Criterion
from advreg.methods.carried import Examples

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
        reset: Epochs (visits of an example) after which its perturbation begins anew.
    """

    name: ClassVar[str] = "atta"
    single_step: ClassVar[bool] = True
    step_share: ClassVar[float] = 0.5
    reset: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(reset=self.reset)
        self._examples = Examples(self.reset)

    @contextmanager
    def attach(
        self, model: nn.Module, *, steps_per_epoch: int | None = None, examples: int | None = None
    ) -> Iterator[None]:
        """See `Method.attach`."""
        self._examples.expected = examples
        with super().attach(model):
            yield

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`.

        Raises:
            StateError: The batch does not say which examples it holds.
        """
        generator = self.generator(batch.inputs)
        fresh = torch.empty_like(batch.inputs).normal_(0, START, generator=generator)
        delta = self._examples.read(batch, fresh)
        inputs = self.one_step(network, batch, criterion, delta)
        self._examples.write(batch, inputs - batch.inputs)
        return inputs

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {**super().state_dict(), "examples": self._examples.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        super().load_state_dict(state)
        self._examples.load_state_dict(state["examples"])
