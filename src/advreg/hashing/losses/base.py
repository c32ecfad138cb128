"""What the losses have in common: outputs, targets, and which pairs are similar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from advreg.errors import DataError


class HashLoss(nn.Module, ABC):
    """A loss of the outputs u of a hash network.

    It is called as a criterion, with outputs (B, q) and targets: (B,) classes, or (B, K) labels
    that are 0 or 1, of which two images are similar that share one. What it learns beside the
    network (GreedyHash's classifier) are its parameters, what it fixes at the start (the centres
    of CSQ and OrthoHash) its buffers.

    Args:
        bits: q.
        classes: Number of classes or labels, K.

    Attributes:
        progress: The share of the training that is over, set by the loop; HashNet's slope grows
            with it.
    """

    name: ClassVar[str]

    def __init__(self, bits: int, classes: int) -> None:
        super().__init__()
        self.bits = bits
        self.classes = classes
        self.progress = 0.0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of (B, q) outputs against (B,) or (B, K) targets, a scalar.

        Raises:
            DataError: The targets are neither, or the mini-batch has no pair that the loss needs.
        """
        whole = targets.ndim == 1 and not targets.is_floating_point()
        labels = targets.ndim == 2 and targets.shape[1] == self.classes
        if not (whole or labels) or len(targets) != len(outputs):
            raise DataError(
                f"Targets of {len(outputs)} images are {targets.dtype} of shape"
                f" {tuple(targets.shape)}; give classes (B,), or 0/1 labels (B, {self.classes})."
            )
        return self.loss(outputs, targets)

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As `forward`, the targets being checked."""


def similar(targets: Tensor) -> Tensor:
    """Which images of a mini-batch are similar, (B, B) bool: of one class, or sharing a label."""
    if targets.ndim == 1:
        return targets[:, None] == targets
    labels = targets.float()
    return labels @ labels.T > 0


def pairs(targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs i < j of a mini-batch: the two places, and whether they are similar; (P,) each.

    Raises:
        DataError: There is one image alone.
    """
    first, second = torch.triu_indices(len(targets), len(targets), 1, device=targets.device)
    if not len(first):
        raise DataError("A mini-batch of one image has no pairs; give a larger batch_size.")
    return first, second, similar(targets)[first, second]


def squared_distances(codes: Tensor) -> Tensor:
    """|a - b|^2 of all pairs of a mini-batch, (B, B), exactly 0 on the diagonal.

    By the product of all pairs rather than by differences, whose memory would be q times more.
    """
    products = codes @ codes.T
    squares = products.diagonal()
    found = squares[:, None] + squares - 2 * products
    return found.clamp_min(0)


def quantisation(outputs: Tensor) -> Tensor:
    """The mean over images and bits of (|u| - 1)^2: how far outputs are from -1 and 1."""
    return (outputs.abs() - 1).square().mean()


def classification(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of (B, K) logits against classes; of several labels, of each by itself."""
    if targets.ndim == 1:
        return functional.cross_entropy(logits, targets)
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
