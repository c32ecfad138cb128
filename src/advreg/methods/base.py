"""The one shape that every method has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import AttachmentError
from advreg.layerwise import paused
from advreg.modes import frozen_statistics

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Takes the network's outputs and the targets; returns their mean loss, a scalar."""

Backward = Callable[[Tensor], None]
"""Runs the backward pass of a loss; loss scaling and data parallelism live in it."""


@dataclass
class Method:
    """A way of training: what happens between two optimizer steps.

    The loop attaches the method to the network, then for every mini-batch calls `step` and the
    optimizer `replays` times.
    """

    name: ClassVar[str]
    single_step: ClassVar[bool] = False
    """Whether it trains on one-step attacks of size `epsilon`, so that the PGD monitor looks."""
    network: nn.Module | None = field(default=None, init=False, repr=False, compare=False)
    """The bare network while attached: extra passes call it, so that no wrapper waits for them."""

    @property
    def passes(self) -> float:
        """Forward-and-backward passes a mini-batch; plain training makes one."""
        return 1.0

    @property
    def replays(self) -> int:
        """How often the loop calls `step`, each with an optimizer step, on one mini-batch."""
        return 1

    @property
    def limits(self) -> tuple[float, float] | None:
        """The range of inputs: the method's `input_range` setting or else the network's, if any."""
        return getattr(self, "input_range", None) or getattr(self.network, "input_range", None)

    def clamped(self, inputs: Tensor) -> Tensor:
        """Inputs (B, ...) within `limits`."""
        return inputs if self.limits is None else inputs.clamp(*self.limits)

    @contextmanager
    def attach(
        self, model: nn.Module, *, steps_per_epoch: int | None = None, examples: int | None = None
    ) -> Iterator[None]:
        """Prepares the bare network (no wrapper around it) and undoes that on leaving.

        Args:
            model: The network to train.
            steps_per_epoch: Mini-batches an epoch, for settings counted in epochs.
            examples: The size of the training data, for memories that hold each example.
        """
        self.network = model
        try:
            yield
        finally:
            self.network = None

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> Tensor:
        """Leaves the method's gradient of one mini-batch in the parameters.

        Args:
            model: The network, or the loop's wrapper around it, in training mode.
            batch: The mini-batch, on the network's device.
            criterion: The mean loss of outputs against targets.
            backward: Called instead of `loss.backward()`.

        Returns:
            The detached loss, a scalar.
        """
        loss = criterion(model(batch.inputs), batch.targets)
        backward(loss)
        return loss.detach()

    @contextmanager
    def extra_pass(self) -> Iterator[nn.Module]:
        """Lends the bare network for passes that only look, such as an attack's.

        It stays in training mode; running statistics are frozen, an adversary is paused.

        Raises:
            AttachmentError: The method is not attached.
        """
        if self.network is None:
            raise AttachmentError(
                f"Method {self.name!r} is not attached; use method.attach(model)."
            )
        with frozen_statistics(self.network), paused(self.network):
            yield self.network

    def state_dict(self) -> dict[str, Any]:
        """What training must restore, beside the model's state, to go on bit for bit."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, before or after attaching."""
