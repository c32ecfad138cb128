"""Deep supervised hashing."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from advreg.hashing.losses.base import HashLoss, pairs, squared_distances
from advreg.units import Number, non_negative


class DSH(HashLoss):
    """A contrastive loss on outputs near -1 and 1 (Liu, Wang, Shan, Chen; CVPR 2016).

    The mean over pairs i < j of (their equation 4, s = 1 where similar)

        s/2 |u_i - u_j|^2 + (1 - s)/2 max(0, m - |u_i - u_j|^2)
            + alpha (| |u_i| - 1 |_1 + | |u_j| - 1 |_1)

    Args:
        bits: q.
        classes: Unused; every loss takes it.
        margin: m; None is 2 q.
        alpha: Weight of the distance from -1 and 1.
    """

    name: ClassVar[str] = "dsh"

    def __init__(
        self, bits: int, classes: int, margin: Number | None = None, alpha: Number = 0.01
    ) -> None:
        super().__init__(bits, classes)
        self.margin = 2.0 * bits if margin is None else non_negative(margin, "margin")
        self.alpha = non_negative(alpha, "alpha")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `HashLoss.forward`."""
        first, second, same = pairs(targets)
        distances = squared_distances(outputs)[first, second]
        excess = functional.relu(self.margin - distances)
        contrast = (distances.where(same, excess) / 2).mean()
        # Each image is in as many pairs as any other: the mean over pairs is one over images.
        return contrast + 2 * self.alpha * (outputs.abs() - 1).abs().sum(1).mean()
