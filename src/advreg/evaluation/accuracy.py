"""Accuracy and negative log-likelihood of a network on images held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from advreg.checks import check_logits, check_no_sigmoid
from advreg.data.mapped import release
from advreg.errors import ConfigurationError, DataError
from advreg.inputs import logits_of
from advreg.layerwise import paused
from advreg.losses import Criterion, is_cross_entropy, task_of
from advreg.modes import evaluating
from advreg.shortage import enough_memory
from advreg.units import at_least_one


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
    criterion: Criterion | None = None,
) -> tuple[float, float]:
    """The accuracy and the mean negative log-likelihood, in evaluation mode, without autocast.

    Args:
        model: Maps images in [0, 1], (B, C, H, W), to logits; left as it is found.
        data: The images and their classes; 0 and 1 for one logit.
        batch_size: Images a forward pass.
        device: Where the model is; found from its parameters where not given.
        criterion: Says whether outputs are classes or, for several labels an example, yes and no;
            see `advreg.losses.task_of`.

    Returns:
        The share of correct examples, or positions, and nats an example. An example whose logits
        are not finite is not correct, and makes the loss not a number.

    Raises:
        ConfigurationError: The batch size is under one, or the model returns probabilities to a
            cross entropy.
        DataError: There are no images, the model returns no logits, or the targets do not fit.
    """
    device = device_of(model, device)
    hits, loss = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    mend = "lower batch_size, or take a smaller network."
    short, seen = enough_memory(f"batches of {batch_size} images", mend), False
    with short, deployed(model, device):
        for inputs, targets in batches(model, data, batch_size, device):
            outputs = model(inputs)
            task = task_of(criterion, outputs, targets)
            if criterion is None or is_cross_entropy(criterion):
                check_logits(logits_of(outputs))
            if task.kind == "bernoulli" and not seen:
                with torch.enable_grad():
                    check_no_sigmoid(logits_of(model(inputs[:1].requires_grad_())))
            seen = True
            # Summed on the CPU in double, which not every accelerator has.
            hits += task.accuracy(outputs, targets).cpu().double().sum()
            loss += task.cross_entropies(outputs, targets).cpu().double().sum()
    return hits.item() / len(data.targets), loss.item() / len(data.targets)


def batches(
    model: nn.Module, data: Images, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images in order, in [0, 1] and the model's type, with their targets, on `device`."""
    at_least_one(batch_size=batch_size)
    check_images(data)
    for images, targets in zip(
        data.images.split(batch_size), data.targets.split(batch_size), strict=True
    ):
        yield as_inputs(model, images, device), targets.to(device)
        release(data.images)


def check_images(data: Images) -> None:
    """Refuses images that are none, have not a target each, or are scaled to [0, 1] already.

    Raises:
        DataError: There are no images, they are not uint8, or there is not one target for each.
    """
    if not (hasattr(data, "images") and hasattr(data, "targets")):
        raise DataError(
            f"The data to evaluate are a {type(data).__name__}; give images and targets, such as"
            " advreg.data.ImageData.from_arrays makes of arrays."
        )
    for name, found in (("images", data.images), ("targets", data.targets)):
        if not isinstance(found, Tensor):
            raise DataError(
                f"The {name} to evaluate are {type(found).__name__}; give a tensor, or take"
                " advreg.data.ImageData.from_arrays."
            )
    if len(data.images) != len(data.targets):
        raise DataError(
            f"There are {len(data.images)} images to evaluate and {len(data.targets)} targets; give"
            " one target for each image."
        )
    if not len(data.images):
        raise DataError("There are no images to evaluate; give at least one.")
    if data.images.dtype != torch.uint8:
        raise DataError(
            f"The images to evaluate are {data.images.dtype}; give uint8 from 0 to 255, which are"
            " divided by 255."
        )


def as_inputs(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Bytes as the model's inputs: in [0, 1], in the type of its first parameter, on `device`."""
    return (images.to(device).float() / 255).to(input_type(model))


def input_type(model: nn.Module) -> torch.dtype:
    """The type of the model's first floating-point parameter; float32 where it has none."""
    types = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(types, torch.float32)


def device_of(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """The device asked for, or else the one that the model's parameters are on.

    Raises:
        ConfigurationError: There is no such device here, or the model is no network.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"The network is a {type(model).__name__}; give an nn.Module, such as one whose forward"
            " calls it."
        )
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ConfigurationError(
                f"device is {str(device)!r}, which is not to be had here; give cpu, or a device of"
                " this machine such as cuda:0."
            ) from error
        return torch.device(device)
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def deployed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model as a user runs it: in evaluation mode, an attached adversary paused.

    No gradients are recorded, and it runs in its own precision.
    """
    autocast = torch.autocast(device.type, enabled=False)
    with evaluating(model), paused(model), torch.no_grad(), autocast:
        yield
