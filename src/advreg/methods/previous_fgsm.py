"""FGSM training that starts where the last attack ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Criterion
from advreg.methods.carried import Examples, Slots

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
            same example's delta an epoch ago, carried through its crop and flip.
    """

    name: ClassVar[str] = "previous_fgsm"
    single_step: ClassVar[bool] = True
    start: Start = "epoch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in get_args(Start):
            raise ConfigurationError(f"start is {self.start!r}; choose batch or epoch.")
        self._slots, self._examples = Slots(), Examples()

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
            StateError: The start is the example's own, and the batch does not say which.
        """
        fresh = self.threat.start(batch.inputs, self.generator(batch.inputs))
        by_example = self.start == "epoch"
        delta = self._examples.read(batch, fresh) if by_example else self._slots.read(fresh)
        inputs = self.one_step(network, batch, criterion, delta)
        if by_example:
            self._examples.write(batch, inputs - batch.inputs)
        else:
            self._slots.write(inputs - batch.inputs)
        return inputs

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        carried = self._examples if self.start == "epoch" else self._slots
        return {**super().state_dict(), self.start: carried.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        super().load_state_dict(state)
        carried = self._examples if self.start == "epoch" else self._slots
        carried.load_state_dict(state[self.start])
