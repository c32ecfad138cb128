"""The methods that own their backward pass, under Lightning's manual optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError, DataError
from advreg.integrations.lightning.callback import AttachingCallback
from advreg.integrations.lightning.package import network_of
from advreg.methods import Criterion, Method, StepOutput


class _MethodCallback(AttachingCallback):
    """Attaches a LightningModule's method; `MethodMixin` adds it to the trainer."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lets Lightning read the schedules' settings, which manual optimisation drops."""
        pl_module.automatic_optimization = stage == "fit"

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """The schedules have been read, and training is manual optimisation."""
        pl_module.automatic_optimization = False

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detaches."""
        pl_module.automatic_optimization = False
        super().on_exception(trainer, pl_module, exception)

    def _attach(self, trainer: Any, network: nn.Module) -> Any:
        steps = trainer.num_training_batches
        return self.part.attach(  # type: ignore[call-arg]
            network,
            steps_per_epoch=None if math.isinf(steps) else int(steps),
            epochs=trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None,
        )

    def _set_indices(self, pl_module: Any, indices: Any) -> None:
        pl_module.example_indices = indices


class MethodMixin:
    """Trains a LightningModule by a method of `advreg.methods` that owns its backward pass.

    `class Net(MethodMixin, LightningModule)` sets `self.method` in its constructor, after
    `super().__init__()`, and needs no `training_step`: it is manual optimisation, with what
    automatic optimisation would do. `method.replays` optimizer steps are made on a mini-batch.

    Attributes:
        method: The method, such as `build_method("fgsm", epsilon=0.1)`.
        criterion: The mean loss of outputs against targets.
        network_name: The name of the network within the LightningModule, as `AdversaryCallback`'s
            `module`.
        accumulate_grad_batches: Mini-batches to an optimizer step, for `Trainer`'s argument.
        gradient_clip_val: Where to clip gradients, for `Trainer`'s argument; None does not.
        gradient_clip_algorithm: "norm" or "value".
    """

    method: Method
    criterion: Criterion = staticmethod(F.cross_entropy)
    network_name: str | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str = "norm"
    example_indices: Tensor | None = None  # of the mini-batch, as the callback has found them
    _trains: bool = False  # whether the last forward pass is one to train by

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False

    def configure_callbacks(self: Any) -> list[Any]:
        """What attaches the method; one of your own adds to `super().configure_callbacks()`."""
        if not isinstance(getattr(self, "method", None), Method):
            raise ConfigurationError(
                f"{type(self).__name__} has no method; set self.method ="
                " advreg.methods.build_method(...) in its constructor."
            )
        if self.method.replays > 1 and self.accumulate_grad_batches > 1:
            raise ConfigurationError(
                f"accumulate_grad_batches is {self.accumulate_grad_batches} with a method that"
                " replays each mini-batch; set it to 1."
            )
        others = super().configure_callbacks()  # type: ignore[misc]
        return [*others, _MethodCallback(self.method, self.network_name)]

    def batch_of(self, batch: Any) -> Batch:
        """The inputs and targets of a mini-batch, its indices taken out; override it for others.

        Raises:
            DataError: The mini-batch is no pair.
        """
        if not isinstance(batch, (list, tuple)) or len(batch) != 2:
            raise DataError(
                f"A mini-batch is a {type(batch).__name__}, not a pair of inputs and targets;"
                " override batch_of(self, batch) to return an advreg.Batch."
            )
        return Batch(*batch)

    def stepped(self: Any, output: StepOutput) -> None:
        """Called with what each step has trained on; logs the loss, and may be overridden."""
        self.log("train_loss", output.loss, prog_bar=True)

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        """One mini-batch, `method.replays` times, each with an optimizer step where one is due."""
        optimizer = self.optimizers()
        found: Batch = self.batch_of(batch)
        if self.example_indices is not None:
            found = replace(found, indices=self.example_indices)
        every = self.accumulate_grad_batches
        due = (batch_idx + 1) % every == 0 or self.trainer.is_last_batch
        network = network_of(self, self.network_name)

        def trained(*inputs: Any) -> Any:
            self._trains = True
            return network(*inputs)

        def backward(loss: Tensor) -> None:
            with _exchange(self.trainer.strategy.model, due and self._trains):
                self._trains = False
                self.manual_backward(loss / every)

        for _ in range(self.method.replays):
            self.stepped(self.method.step(trained, found, self.criterion, backward))
            if due:
                optimizer.step()
                optimizer.zero_grad()
        if due:
            self._schedule("step", batch_idx)
        if self.trainer.is_last_batch:
            self._schedule("epoch", self.trainer.current_epoch, plateau=False)

    def on_before_optimizer_step(self: Any, optimizer: Any) -> None:
        """Clips the gradients, of which a loss scale has been taken."""
        super().on_before_optimizer_step(optimizer)  # type: ignore[misc]
        self.clip_gradients(
            optimizer,
            gradient_clip_val=self.gradient_clip_val,
            gradient_clip_algorithm=self.gradient_clip_algorithm,
        )

    def on_train_epoch_end(self: Any) -> None:
        """Moves the schedules that wait for an epoch's validation."""
        super().on_train_epoch_end()  # type: ignore[misc]
        self._schedule("epoch", self.trainer.current_epoch, plateau=True)

    def _schedule(self: Any, interval: str, index: int, plateau: bool | None = None) -> None:
        for config in self.trainer.lr_scheduler_configs:
            chosen = config.interval == interval and plateau in (None, config.reduce_on_plateau)
            if not chosen or (index + 1) % config.frequency:
                continue
            monitored = self.trainer.callback_metrics.get(config.monitor)
            if config.reduce_on_plateau and monitored is None:
                raise ConfigurationError(
                    f"The learning rate waits for {config.monitor!r}, which was not logged; log it,"
                    " or monitor another figure."
                )
            self.lr_scheduler_step(config.scheduler, monitored)


@contextmanager
def _exchange(wrapper: Any, wanted: bool) -> Iterator[None]:
    """Keeps data parallel ranks from exchanging gradients where that is not wanted."""
    no_sync: Callable[[], Any] | None = getattr(wrapper, "no_sync", None)
    if wanted or no_sync is None:
        yield
    else:
        with no_sync():
            yield
