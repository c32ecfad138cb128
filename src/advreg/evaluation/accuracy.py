"""Accuracy and negative log-likelihood of a network on images held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from advreg.attacks import correct, cross_entropies
from advreg.attacks.checks import at_least_one
from advreg.errors import ConfigurationError, DataError
from advreg.modes import evaluating


class Images(Protocol):
    """What is evaluated, such as `advreg.data.ImageData`."""

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8."""

    @property
    def targets(self) -> Tensor:
        """(N,) int64 classes."""


def accuracy_and_loss(
    model: nn.Module,
    data: Images,
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> tuple[float, float]:
    """The accuracy and the mean negative log-likelihood, in evaluation mode and float32.

    Args:
        model: Maps images in [0, 1], (B, C, H, W), to logits (B, K); left as it is found.
        data: The images and their classes.
        batch_size: Images a forward pass.
        device: Where the model is; found from its parameters where not given.

    Returns:
        The share of correct examples, and nats an example. An example whose logits are not finite
        is not correct, and makes the loss not a number.

    Raises:
        ConfigurationError: The model does not return logits (B, K), or the batch size is under one.
        DataError: There are no images, or a target is not among the model's classes.
    """
    device = device_of(model, device)
    hits = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64)
    with deployed(model, device):
        for inputs, targets in batches(data, batch_size, device):
            outputs = logits(model, inputs, targets)
            hits += correct(outputs, targets).sum()
            # Summed on the CPU in double, which not every accelerator has.
            loss += cross_entropies(outputs, targets).cpu().double().sum()
    return hits.item() / len(data.targets), loss.item() / len(data.targets)


def batches(data: Images, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in order as float32 in [0, 1] with their targets, both on `device`."""
    at_least_one(batch_size=batch_size)
    if not len(data.images):
        raise DataError("There are no images to evaluate; give at least one.")
    for images, targets in zip(
        data.images.split(batch_size), data.targets.split(batch_size), strict=True
    ):
        yield images.to(device).float() / 255, targets.to(device)


def logits(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The model's outputs, (B, K), once they are seen to be logits for these targets."""
    outputs = model(inputs)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(inputs):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigurationError(
            f"The model maps {len(inputs)} images to {shape}; evaluate one that returns logits,"
            f" ({len(inputs)}, classes)."
        )
    outside = targets[(targets < 0) | (targets >= outputs.shape[1])]
    if len(outside):
        raise DataError(
            f"A target is {int(outside[0])} but the model tells {outputs.shape[1]} classes apart,"
            " counted from 0; give it the data that it was trained for."
        )
    return outputs


def device_of(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """The device asked for, or else the one that the model's parameters are on."""
    if device is not None:
        return torch.device(device)
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def deployed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model as a user runs it: evaluation mode, no gradients, full precision."""
    with evaluating(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
