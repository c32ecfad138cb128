"""Averages of the weights, which are validated and deployed in place of the weights themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from advreg.training.settings import OptimizerSettings

ROUNDING = 1e-9
"""So that a share such as 0.29 of 100 epochs is 29 of them."""


class Average:
    """An average of a network's weights over its training.

    Args:
        averaged: Holds it.
    """

    def __init__(self, averaged: AveragedModel) -> None:
        self._averaged = averaged

    @property
    def network(self) -> nn.Module | None:
        """The network with averaged weights; None before there are any."""
        return self._averaged.module if int(self._averaged.n_averaged) else None

    def after_step(self, model: nn.Module) -> None:
        """Takes the weights after an optimizer step."""
        return

    def after_epoch(self, model: nn.Module, epoch: int, inputs: Iterable[Tensor]) -> None:
        """Takes the weights after an epoch.

        Args:
            model: The network in training.
            epoch: Its number, from 0.
            inputs: The epoch's mini-batches, (B, ...) each, made only where they are needed.
        """
        return

    def state_dict(self) -> dict[str, Any] | None:
        """The averaged weights and of how many they are; None before there are any."""
        if self.network is None:
            return None
        return {"weights": self.network.state_dict(), "count": int(self._averaged.n_averaged)}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restores what `state_dict` returned."""
        if state is not None:
            self._averaged.module.load_state_dict(state["weights"])
        self._averaged.n_averaged.fill_(0 if state is None else state["count"])


class MovingAverage(Average):
    """An exponential moving average of weights and batch statistics, taken at every step.

    The decay grows as (1 + t) / (10 + t) up to `decay`, so that a short training is not an
    average of its first steps.

    Args:
        model: The network in training.
        decay: What the average keeps of itself at a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        def update(averaged: Any, current: Any, count: Any) -> None:
            warm = (1 + int(count)) / (10 + int(count))
            get_ema_multi_avg_fn(min(decay, warm))(averaged, current, count)

        super().__init__(AveragedModel(model, multi_avg_fn=update, use_buffers=True))

    def after_step(self, model: nn.Module) -> None:
        """See `Average.after_step`."""
        self._averaged.update_parameters(model)


class EqualAverage(Average):
    """Stochastic weight averaging: the mean of the weights at the ends of the last epochs.

    Izmailov et al., UAI 2018, arXiv 1803.05407. The batch statistics are taken afresh after each
    of these epochs, by one forward pass over its mini-batches, unperturbed.

    Args:
        model: The network in training.
        start: Share of the epochs that are left out; the last one never is.
        epochs: Of the whole training.
    """

    def __init__(self, model: nn.Module, start: float, epochs: int) -> None:
        super().__init__(AveragedModel(model))
        self._first = min(int(start * epochs + ROUNDING), epochs - 1)

    def after_epoch(self, model: nn.Module, epoch: int, inputs: Iterable[Tensor]) -> None:
        """See `Average.after_epoch`."""
        if epoch < self._first:
            return
        self._averaged.update_parameters(model)
        device = next(model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout draws in training mode
            update_bn(inputs, self._averaged.module)


def build_average(settings: OptimizerSettings, model: nn.Module, epochs: int) -> Average | None:
    """The average that the settings ask for, if any."""
    if settings.ema is not None:
        return MovingAverage(model, settings.ema)
    return None if settings.swa is None else EqualAverage(model, settings.swa, epochs)
