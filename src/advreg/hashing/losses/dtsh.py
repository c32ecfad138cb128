"""Deep triplet-supervised hashing."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from advreg.hashing.losses.base import HashLoss, quantisation, similar
from advreg.hashing.losses.triplet import check_triplets
from advreg.units import Number, non_negative


class DTSH(HashLoss):
    """The likelihood of triplets' order (Wang, Shi, Kitani; ACCV 2016, arXiv 1612.03900).

    With theta = u . u' / 2 (their equation 5), the mean over all triplets of a mini-batch of
    log(1 + exp(-z)), z = theta(u, u+) - theta(u, u-) - alpha, plus weight times the mean over
    images and bits of (u - sign(u))^2.

    Args:
        bits: q.
        classes: Unused; every loss takes it.
        alpha: The margin.
        weight: Of the distance from -1 and 1.
    """

    name: ClassVar[str] = "dtsh"

    def __init__(self, bits: int, classes: int, alpha: Number = 5.0, weight: Number = 1.0) -> None:
        super().__init__(bits, classes)
        self.alpha = non_negative(alpha, "alpha")
        self.weight = non_negative(weight, "weight")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `HashLoss.forward`."""
        same = similar(targets)
        positives = same.clone().fill_diagonal_(False)
        check_triplets(positives, same)
        theta = outputs @ outputs.T / 2
        anchors, partners = (positives & (~same).any(1, keepdim=True)).nonzero(as_tuple=True)
        z = theta[anchors, partners][:, None] - theta[anchors] - self.alpha
        likelihood = functional.softplus(-z[~same[anchors]]).mean()
        return likelihood + self.weight * quantisation(outputs)
