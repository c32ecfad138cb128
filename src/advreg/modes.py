"""Putting a network into a mode for a while, and leaving it as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from advreg.errors import ConfigurationError


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Runs `model` in evaluation mode; every module's own training flag comes back.

    Only the flags are set: a network's own `train` or `eval` is not called, for what it might do
    beside (merging weights, say) could not be undone here.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keeps normalisation layers from updating their running statistics.

    Layers in training mode still normalise by the batch; only what they remember is frozen.
    Layers in evaluation mode go on reading what they remember.
    """
    layers = [
        module for module in model.modules() if getattr(module, "running_mean", None) is not None
    ]
    # Only batch norm takes the flag for "do not write": instance norm writes all the same, and in
    # evaluation mode would stop reading. Such layers work on copies for the while.
    batch_norms = [
        layer for layer in layers if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]
    buffers = [
        (layer, dict(layer.named_buffers(recurse=False)))
        for layer in layers
        if not isinstance(layer, _BatchNorm)
    ]
    try:
        for batch_norm in batch_norms:
            batch_norm.track_running_stats = False
        for layer, originals in buffers:
            for name, value in originals.items():
                setattr(layer, name, value.clone())
        yield
    finally:
        for batch_norm in batch_norms:
            batch_norm.track_running_stats = True
        for layer, originals in buffers:
            for name, value in originals.items():
                setattr(layer, name, value)


def check_model(model: Any) -> None:
    """Refuses what is no network.

    Raises:
        ConfigurationError: It is a function, say.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"The model is a {type(model).__name__}; give an nn.Module, whose modes and hooks an"
            " attack has to know."
        )


def check_statistics_frozen(model: nn.Module) -> None:
    """Refuses a model whose batch statistics every pass of an attack would change.

    A model in training mode is attacked all the same where these are frozen: training methods do.

    Raises:
        ConfigurationError: A batch normalisation layer is in training mode and would remember.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            raise ConfigurationError(
                "The model is in training mode and an attack would change its batch statistics;"
                " call model.eval() first, or freeze them with advreg.modes.frozen_statistics."
            )


def check_evaluating(model: nn.Module) -> None:
    """Refuses a model that is not the deployed one.

    Raises:
        ConfigurationError: A part of the model is in training mode.
    """
    if any(module.training for module in model.modules()):
        raise ConfigurationError(
            "The model is in training mode, which is not the one that is deployed;"
            " call model.eval() before the attack."
        )
