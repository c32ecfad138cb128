"""GreedyHash: a classifier on the bits themselves."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from advreg.hashing.losses.base import HashLoss, classification
from advreg.units import Number, non_negative


class GreedyHash(HashLoss):
    """Cross-entropy of a linear classifier on sign(u) (Su, Zhang, Han, Tian; NeurIPS 2018).

    The sign's gradient is taken as the identity's. Plus alpha times the mean over images and bits
    of | |u| - 1 |^3, which keeps u near its sign. The classifier is learnt with the network and
    thrown away.

    Args:
        bits: q.
        classes: Number of classes or labels.
        alpha: Weight of the distance from -1 and 1.
    """

    name: ClassVar[str] = "greedyhash"

    def __init__(self, bits: int, classes: int, alpha: Number = 0.1) -> None:
        super().__init__(bits, classes)
        self.alpha = non_negative(alpha, "alpha")
        self.classifier = nn.Linear(bits, classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `HashLoss.forward`."""
        signs = (outputs > 0).to(outputs.dtype) * 2 - 1
        codes = outputs + (signs - outputs).detach()
        penalty = (outputs.abs() - 1).abs().pow(3).mean()
        return classification(self.classifier(codes), targets) + self.alpha * penalty
