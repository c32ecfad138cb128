"""Accelerate: an adversary or a method that its checkpoints hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

from advreg.data import take_indices
from advreg.errors import ConfigurationError
from advreg.extras import require
from advreg.integrations.ranks import gather_states, state_of_rank
from advreg.layerwise import LayerwiseAdversary
from advreg.methods import Method

Item = TypeVar("Item")


class AcceleratedAdversary:
    """Attaches an adversary or a method to a prepared model, and saves it with `save_state`.

    `accelerator.save_state` and `load_state` hold the state of every rank, so that a run that goes
    on from a checkpoint equals one that was not interrupted. Every rank must call them. Make it
    before `load_state`, and attach after `prepare`:

        adversary = AcceleratedAdversary(accelerator, LayerwiseAdversary(epsilon=0.1))
        with adversary.attach(model):
            for x, y in adversary.batches(loader): ...

    Args:
        accelerator: With which it is registered for checkpointing.
        part: The adversary, or a method, whose `step` takes `accelerator.backward`.

    Raises:
        ConfigurationError: `part` is neither.
        MissingExtraError: Accelerate is not installed.
    """

    def __init__(self, accelerator: Any, part: LayerwiseAdversary | Method) -> None:
        require("accelerate", extra="accelerate", what="AcceleratedAdversary")
        if not isinstance(part, (LayerwiseAdversary, Method)):
            raise ConfigurationError(
                f"AcceleratedAdversary takes a LayerwiseAdversary or a method, not a"
                f" {type(part).__name__}."
            )
        self.accelerator, self.part = accelerator, part
        accelerator.register_for_checkpointing(self)

    @contextmanager
    def attach(self, model: nn.Module, **settings: Any) -> Iterator[None]:
        """Within it the network inside a prepared model is perturbed.

        Args:
            model: What `accelerator.prepare` returned.
            settings: Of a method's `attach`, such as `steps_per_epoch`.
        """
        with self.part.attach(self.accelerator.unwrap_model(model), **settings):
            yield

    def batches(self, loader: Iterable[Item]) -> Iterator[Item]:
        """A loader's mini-batches, the indices of `with_indices` taken out and given the adversary.

        A method's loop sees them with their indices, for the `Batch` that it makes: see
        `advreg.data.take_indices`.
        """
        for batch in loader:
            if isinstance(self.part, LayerwiseAdversary):
                indices = take_indices(batch)
                if indices is not None:
                    self.part.set_batch(indices)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The states of all ranks on the first, which saves them."""
        return gather_states(self.part.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores this rank's own state, now or on attaching."""
        own = state_of_rank(state)
        if own is not None:
            self.part.load_state_dict(own)
