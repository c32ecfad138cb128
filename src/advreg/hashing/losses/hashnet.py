"""HashNet: weighted pairwise likelihood and a slope that grows."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from advreg.errors import ConfigurationError
from advreg.hashing.losses.base import HashLoss, pairs
from advreg.units import Number, number


class HashNet(HashLoss):
    """Weighted maximum likelihood on tanh(beta u), beta growing (Cao et al., ICCV 2017).

    With g = tanh(beta u), z = alpha g_i . g_j and s = 1 where similar (arXiv 1702.00758,
    equation 4), the mean over pairs i < j of

        w (log(1 + exp(z)) - s z),    w = |S| / |S_s|

    where |S_s| counts the mini-batch's pairs of the same s: similar and dissimilar pairs weigh the
    same in sum. beta = sqrt(1 + (slope^2 - 1) t), t the share of the training that is over, is the
    square root law of the authors' code stretched over any training.

    Args:
        bits: q.
        classes: Unused; every loss takes it.
        alpha: Slope of the likelihood; None is 10 / q, at which z lies within -10 and 10.
        slope: beta at the training's end.

    Raises:
        ConfigurationError: alpha is not above 0, or the slope below 1.
    """

    name: ClassVar[str] = "hashnet"

    def __init__(
        self, bits: int, classes: int, alpha: Number | None = None, slope: Number = 10.0
    ) -> None:
        super().__init__(bits, classes)
        self.alpha = 10 / bits if alpha is None else number(alpha, "alpha")
        self.slope = number(slope, "slope")
        if self.alpha <= 0 or self.slope < 1:
            raise ConfigurationError(
                f"alpha is {self.alpha:g} and slope {self.slope:g}; give an alpha above 0 and a"
                " slope of at least 1."
            )

    @property
    def beta(self) -> float:
        """The slope of tanh now."""
        return math.sqrt(1 + (self.slope**2 - 1) * self.progress)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `HashLoss.forward`."""
        first, second, same = pairs(targets)
        codes = (self.beta * outputs).tanh()
        z = self.alpha * (codes @ codes.T)[first, second]
        losses = functional.softplus(z) - z.where(same, z.new_zeros(()))
        ones, count = same.sum().to(losses.dtype), len(same)
        weights = (count / ones.clamp_min(1)).where(same, count / (count - ones).clamp_min(1))
        return (weights * losses).mean()
