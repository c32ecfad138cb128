"""The maximum-entropy term on generated images, an addition to any loss."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.errors import ConfigurationError, DataError
from advreg.hashing.bitstatistics import entropy
from advreg.hashing.losses.base import HashLoss
from advreg.units import Number, non_negative

GENERATED = -1
"""The target of a generated image; in (B, K) labels, all of them."""


def maximum_entropy(outputs: Tensor) -> Tensor:
    """The mean over images and bits of h log h + (1 - h) log(1 - h), h = sigmoid(u).

    Minimised, it draws the relaxed bits of generated images to 1/2, so that no bit is confident of
    an image that is no one's (Geng et al., arXiv 1803.09466). From -log 2 to 0.

    Args:
        outputs: (M, q) of generated images.
    """
    return -entropy(outputs).mean()


class WithGenerated(torch.nn.Module):
    """A loss of real images plus weight times the maximum-entropy term of generated ones.

    Both are in one mini-batch, and so in one forward and one backward pass, whatever the method of
    training does with them; targets of -1 mark the generated. A mini-batch without generated images
    has the loss alone.

    Args:
        loss: Of the real images.
        weight: Of the term.

    Raises:
        ConfigurationError: The weight is negative.
    """

    def __init__(self, loss: HashLoss, weight: Number = 0.1) -> None:
        super().__init__()
        self.base = loss
        self.weight = non_negative(weight, "weight")

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of (B, q) outputs against (B,) or (B, K) targets, a scalar.

        Raises:
            DataError: All images are generated.
        """
        real = (targets >= 0) if targets.ndim == 1 else (targets >= 0).all(1)
        if real.all():
            return self.base(outputs, targets)
        if not real.any():
            raise DataError(
                "A mini-batch holds generated images alone; give a share of them below 1."
            )
        loss = self.base(outputs[real], targets[real])
        return loss + self.weight * maximum_entropy(outputs[~real])


def generated_count(share: Number, batch_size: int) -> int:
    """How many generated images stand beside a mini-batch of `batch_size` real ones.

    Args:
        share: Of the whole, in [0, 1).
        batch_size: Real images.

    Raises:
        ConfigurationError: The share is outside [0, 1).
    """
    found = non_negative(share, "share")
    if found >= 1:
        raise ConfigurationError(f"share is {share!r}; give a share of at least 0 and below 1.")
    return round(found / (1 - found) * batch_size)
