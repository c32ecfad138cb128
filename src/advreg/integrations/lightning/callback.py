"""An adversary as a Lightning callback."""

from __future__ import annotations

from typing import Any

from torch import nn

from advreg.data import take_indices
from advreg.errors import ConfigurationError
from advreg.integrations.lightning.package import Callback, network_of
from advreg.integrations.ranks import gather_states, state_of_rank
from advreg.layerwise import LayerwiseAdversary, LayerwiseConfig
from advreg.methods import Method


class AttachingCallback(Callback):
    """Attaches an adversary or a method for as long as a trainer trains.

    Args:
        part: The adversary or the method.
        module: The name of the network within the LightningModule.
    """

    def __init__(self, part: LayerwiseAdversary | Method, module: str | None) -> None:
        self.part, self.module = part, module
        self._handle: Any = None

    @property
    def state_key(self) -> str:
        """By which a checkpoint knows this callback from another one of its class."""
        return f"{type(self).__qualname__}{{module={self.module}}}"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attaches, with the state of a checkpoint where the fit goes on from one."""
        self._handle = self._attach(trainer, network_of(pl_module, self.module))

    def _attach(self, trainer: Any, network: nn.Module) -> Any:
        return self.part.attach(network)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the indices out of the mini-batch."""
        self._set_indices(pl_module, take_indices(batch))

    def _set_indices(self, pl_module: Any, indices: Any) -> None:
        raise NotImplementedError

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Drops the indices from the mini-batch."""
        take_indices(batch)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Detaches."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detaches."""
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The states of all ranks, in the checkpoint that the first of them saves."""
        return gather_states(self.part.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores this rank's own state."""
        state = state_of_rank(state_dict)
        if state is not None:
            self.part.load_state_dict(state)


class AdversaryCallback(AttachingCallback):
    """Layerwise adversarial training under a Lightning `Trainer`; nothing else changes.

    It attaches when training starts and detaches at its end, by an exception too. Validation sees
    the untouched network. Checkpoints hold the state of every rank, so that a run that goes on from
    one equals one that was not interrupted. Mini-batches of a data set under
    `advreg.data.with_indices` give example memory their indices, and training and validation steps
    see them without.

    Args:
        adversary: The adversary or its settings; None makes one from the keyword arguments.
        module: The name of the network within the LightningModule, such as "net". None is the
            LightningModule, or the only network in one that has no `forward`.
        settings: The fields of `LayerwiseConfig`.

    Raises:
        ConfigurationError: A setting cannot work, or a method was given.
    """

    def __init__(
        self,
        adversary: LayerwiseAdversary | LayerwiseConfig | None = None,
        *,
        module: str | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(adversary, Method):
            raise ConfigurationError(
                f"Method {adversary.name!r} owns its backward pass, for which a callback comes too"
                " late; let the LightningModule inherit MethodMixin."
            )
        if adversary is None:
            adversary = LayerwiseAdversary(**settings)
        elif settings:
            raise ConfigurationError("Give an adversary, or the settings of one, not both.")
        if isinstance(adversary, LayerwiseConfig):
            adversary = LayerwiseAdversary.from_config(adversary)
        super().__init__(adversary, module)
        self.adversary = adversary

    def _set_indices(self, pl_module: Any, indices: Any) -> None:
        if indices is not None:
            self.adversary.set_batch(indices)
