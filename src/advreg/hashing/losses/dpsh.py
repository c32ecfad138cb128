"""Deep pairwise-supervised hashing."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from advreg.hashing.losses.base import HashLoss, pairs, quantisation
from advreg.units import Number, non_negative


class DPSH(HashLoss):
    """The likelihood of pairs' similarity (Li, Wang, Kang; IJCAI 2016, arXiv 1511.03855).

    With theta = u_i . u_j / 2 and s = 1 where similar (their equation 3), the mean over pairs i < j
    of log(1 + exp(theta)) - s theta, plus eta times the mean over images and bits of
    (u - sign(u))^2.

    Args:
        bits: q.
        classes: Unused; every loss takes it.
        eta: Weight of the distance from -1 and 1.
    """

    name: ClassVar[str] = "dpsh"

    def __init__(self, bits: int, classes: int, eta: Number = 0.1) -> None:
        super().__init__(bits, classes)
        self.eta = non_negative(eta, "eta")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `HashLoss.forward`."""
        first, second, same = pairs(targets)
        theta = (outputs @ outputs.T)[first, second] / 2
        likelihood = functional.softplus(theta) - theta.where(same, theta.new_zeros(()))
        return likelihood.mean() + self.eta * quantisation(outputs)
