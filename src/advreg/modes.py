"""Putting a network into a mode for a while, and leaving it as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Runs `model` in evaluation mode; every module's own training flag comes back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keeps normalisation layers from updating their running statistics.

    Layers in training mode still normalise by the batch; only what they remember is frozen.
    """
    layers = [
        module
        for module in model.modules()
        if getattr(module, "track_running_stats", False)
    ]
    for layer in layers:
        layer.track_running_stats = False  # batch norm then neither reads nor writes its buffers
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
