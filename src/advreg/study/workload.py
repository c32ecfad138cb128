"""What methods are timed on: synthetic images, and one training step of a network's copy."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn import functional

from advreg.batch import Batch
from advreg.data import ImageData, Loader
from advreg.errors import ConfigurationError
from advreg.methods import Method
from advreg.modes import evaluating
from advreg.study.cost import Step


def count_classes(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """How many classes a network separates, from a forward pass that changes nothing.

    Args:
        model: The network, on the CPU.
        shape: Channels, height and width of its inputs.

    Raises:
        ConfigurationError: It does not take such images, or does not return (B, K) logits.
    """
    mend = "give the --in_channels and --image_size of a network from images to (B, K) logits"
    try:
        with torch.no_grad(), evaluating(model):
            outputs = model(torch.zeros(2, *shape))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"The model failed on images {shape} ({reason}); {mend}."
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigurationError(f"The model returned {found}; {mend}.")
    return outputs.shape[1]


def synthetic_batches(
    shape: tuple[int, int, int],
    classes: int,
    batch_size: int,
    *,
    count: int = 4,
    augment: str = "crop_flip",
    device: torch.device | str = "cpu",
) -> tuple[Batch, ...]:
    """An epoch of random images and labels, the same each time.

    Args:
        shape: Channels, height and width.
        classes: Number of classes.
        batch_size: Images B in a mini-batch.
        count: Mini-batches an epoch, so that an example's memory is used.
        augment: As of `advreg.data.Loader`.
        device: Where the batches are made.

    Returns:
        `count` batches with inputs (B, C, H, W) in [0, 1], targets, indices and views.
    """
    random = torch.Generator().manual_seed(0)
    examples = count * batch_size
    images = torch.randint(0, 256, (examples, *shape), generator=random, dtype=torch.uint8)
    targets = torch.randint(0, classes, (examples,), generator=random)
    data = ImageData(images, targets, tuple(map(str, range(classes))))
    return tuple(Loader(data, batch_size, augment=augment, device=device).epoch(0))


def training_step(
    stack: ExitStack,
    model: nn.Module,
    batches: tuple[Batch, ...],
    method: Method,
) -> Step:
    """A function that makes one training step of a network's copy under a method.

    One call of the method's `step`, by which a method that replays makes one replay, then SGD
    with momentum and weight decay.

    Args:
        stack: Detaches the method when it is closed.
        model: Copied, so that no method trains another's network.
        batches: An epoch, used in turn and then again.
        method: A fresh one.
    """
    model = copy.deepcopy(model).train()
    examples = sum(map(len, batches))
    stack.enter_context(method.attach(model, steps_per_epoch=len(batches), examples=examples))
    optimizer = torch.optim.SGD(
        model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    turns = cycle(batches)

    def backward(loss: Tensor) -> None:
        loss.backward()

    def step() -> None:
        method.step(model, next(turns), functional.cross_entropy, backward)
        optimizer.step()
        optimizer.zero_grad()

    return step
