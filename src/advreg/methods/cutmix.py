"""CutMix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError, DataError
from advreg.methods.base import (
    Backward,
    Carried,
    Criterion,
    Method,
    training_pass,
)
from advreg.methods.mixup import CPU
from advreg.methods.output import StepOutput
from advreg.randomness import Generators
from advreg.units import Number, number

Box = tuple[slice, slice]
"""Rows and columns of a rectangle."""


@dataclass
class CutMix(Method):
    """lam J(x~, y_a) + (1 - lam) J(x~, y_b), where x~ is x_a with a rectangle of x_b pasted in.

    Yun et al., ICCV 2019, arXiv 1905.04899, equations 1 and 2. b is a permutation of the
    mini-batch a. The rectangle has the image's proportions, a share 1 - lam of its area and its
    centre anywhere; what would lie outside is cut off, and 1 - lam is then the share that is left.
    lam and the rectangle are drawn once a mini-batch.

    Args:
        concentration: Of the distribution Beta(concentration, concentration) of lam, above 0.
        probability: Of mixing a mini-batch at all; the others are trained on as they are. The
            paper's is 0.5 on CIFAR and 1 on ImageNet.
        seed: Of the permutations, lams and rectangles.
    """

    name: ClassVar[str] = "cutmix"
    concentration: Number = 1.0
    probability: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        self.concentration = number(self.concentration, "concentration")
        if self.concentration <= 0:
            raise ConfigurationError(
                f"concentration is {self.concentration}; give a number above 0."
            )
        if not 0 < self.probability <= 1:
            raise ConfigurationError(
                f"probability is {self.probability}; give a number above 0 and up to 1."
            )

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {"generators": Generators(self.seed)}

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the mixed one, the targets are the mixed probabilities.

        Raises:
            DataError: The inputs are no images, (B, C, H, W).
        """
        if batch.inputs.ndim != 4:
            raise DataError(
                f"The inputs have shape {tuple(batch.inputs.shape)} and CutMix is for images"
                " (B, C, H, W); use mixup."
            )
        height, width = batch.inputs.shape[2:]
        box, order = self.draw(len(batch), height, width)
        if box is None:
            return training_pass(model, batch, criterion, backward)
        other = batch.select(order.to(batch.inputs.device))
        outputs = model(paste(batch.inputs, other.inputs, box))
        share = 1 - area(box) / (height * width)
        loss = share * criterion(outputs, batch.targets)
        loss = loss + (1 - share) * criterion(outputs, other.targets)
        backward(loss)
        return StepOutput.mixed(loss, outputs, (batch.targets, other.targets), share, criterion)

    def draw(self, size: int, height: int, width: int) -> tuple[Box | None, Tensor]:
        """The next rectangle, None for no mixing, and permutation, (size,) int64 on the CPU."""
        generator = self.carried["generators"].on(CPU)
        # PyTorch's Beta draws from the global stream only; NumPy's takes a seed of its own.
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        random = np.random.default_rng(seed)
        mixes = random.random() < self.probability
        share = random.beta(float(self.concentration), float(self.concentration))
        centre = int(random.integers(height)), int(random.integers(width))
        order = torch.randperm(size, generator=generator)
        box = rectangle(share, centre, height, width)
        return (box if mixes and area(box) else None), order


def rectangle(share: float, centre: tuple[int, int], height: int, width: int) -> Box:
    """The part that is replaced so that about `share` of the image stays.

    Args:
        share: lam, from 0 to 1; the sides are sqrt(1 - lam) times the image's, rounded down.
        centre: Row and column.
        height: Of the image.
        width: Of the image.
    """
    rows, columns = (
        slice(max(at - side // 2, 0), min(at + side // 2, size))
        for at, size in zip(centre, (height, width), strict=True)
        for side in [int(size * math.sqrt(1 - share))]
    )
    return rows, columns


def area(box: Box) -> int:
    """Pixels of a rectangle."""
    rows, columns = box
    return (rows.stop - rows.start) * (columns.stop - columns.start)


def paste(images: Tensor, others: Tensor, box: Box) -> Tensor:
    """Images, each (B, C, H, W), with a rectangle of the others in place of their own."""
    mixed = images.clone()
    mixed[:, :, box[0], box[1]] = others[:, :, box[0], box[1]]
    return mixed
