"""Losses that draw each class's codes to a centre fixed beforehand: CSQ and OrthoHash."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from advreg.errors import ConfigurationError
from advreg.hashing.codes import relaxed
from advreg.hashing.losses.base import HashLoss
from advreg.units import Number, non_negative, number

TRIES = 1000
"""Random sets of centres among which the one with the largest least distance is kept."""


def hash_centres(classes: int, bits: int, seed: int = 0) -> Tensor:
    """A code for each class, far from the others' (Yuan et al., CVPR 2020, algorithm 1).

    Where q is a power of two and there are at most 2 q classes, the rows of a Hadamard matrix and
    of its negative: any two are q / 2 or q bits apart. Otherwise fair coins; of many such sets the
    one whose nearest two are farthest apart.

    Args:
        classes: K.
        bits: q.
        seed: Of the coins.

    Returns:
        (K, q) float32, -1 or 1.

    Raises:
        ConfigurationError: There are more classes than codes.
    """
    if classes > 2**bits:
        raise ConfigurationError(
            f"{classes} classes have no codes of their own among those of {bits} bits; give more"
            " bits."
        )
    if bits & (bits - 1) == 0 and classes <= 2 * bits:
        matrix = torch.ones(1, 1)
        while len(matrix) < bits:
            matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
        return torch.cat([matrix, -matrix])[:classes].clone()
    generator = torch.Generator().manual_seed(seed)
    best, apart = torch.empty(0), -1.0
    for _ in range(TRIES):
        centres = torch.randint(2, (classes, bits), generator=generator).float() * 2 - 1
        products = (centres @ centres.T).fill_diagonal_(-bits)
        distance = (bits - float(products.max())) / 2
        if distance > apart:
            best, apart = centres, distance
    return best


class CSQ(HashLoss):
    """Central similarity quantisation (Yuan et al., CVPR 2020, arXiv 1908.00347).

    The mean over images and bits of the binary cross-entropy of h = sigmoid(u) against the bits of
    the image's centre, plus weight times the mean of log cosh(|2 h - 1| - 1). An image with several
    labels has the majority of their centres, bit by bit; where it is split, a bit drawn once for
    all images.

    Args:
        bits: q.
        classes: Number of classes or labels.
        weight: Of the distance from 0 and 1.
        seed: Of centres where there is no Hadamard matrix, and of split majorities.

    Raises:
        ConfigurationError: There are more classes than codes.
    """

    name: ClassVar[str] = "csq"

    centres: Tensor
    split: Tensor

    def __init__(self, bits: int, classes: int, weight: Number = 1e-4, seed: int = 0) -> None:
        super().__init__(bits, classes)
        self.weight = non_negative(weight, "weight")
        self.register_buffer("centres", hash_centres(classes, bits, seed))
        generator = torch.Generator().manual_seed(seed)
        coins = torch.randint(2, (bits,), generator=generator).float() * 2 - 1
        self.register_buffer("split", coins)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `HashLoss.forward`."""
        wanted = (self._centres_of(targets).to(outputs.dtype) + 1) / 2
        central = functional.binary_cross_entropy_with_logits(outputs, wanted)
        distance = (2 * relaxed(outputs) - 1).abs() - 1
        return central + self.weight * distance.cosh().log().mean()

    def _centres_of(self, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            return self.centres[targets]
        votes = (targets.to(self.centres.dtype) @ self.centres).sign()
        return votes.where(votes != 0, self.split)


class OrthoHash(HashLoss):
    """Cross-entropy of cosines to the centres (Hoe et al., NeurIPS 2021, arXiv 2109.14449).

    With c_k the cosine of u and class k's centre, the cross-entropy of the logits s (c_k - m [k is
    the image's class]). An image with several labels has the share 1 / L of each of its L.

    Args:
        bits: q.
        classes: Number of classes or labels.
        scale: s; None is the square root of q.
        margin: m, a cosine.
        seed: Of centres where there is no Hadamard matrix.

    Raises:
        ConfigurationError: There are more classes than codes, or the scale is not above 0.
    """

    name: ClassVar[str] = "orthohash"

    centres: Tensor

    def __init__(
        self,
        bits: int,
        classes: int,
        scale: Number | None = None,
        margin: Number = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(bits, classes)
        self.scale = bits**0.5 if scale is None else number(scale, "scale")
        if self.scale <= 0:
            raise ConfigurationError(f"scale is {scale!r}; give a number above 0.")
        self.margin = non_negative(margin, "margin")
        self.register_buffer("centres", hash_centres(classes, bits, seed))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `HashLoss.forward`."""
        directions = functional.normalize(self.centres.to(outputs.dtype), dim=1)
        cosines = functional.normalize(outputs, dim=1) @ directions.T
        if targets.ndim == 1:
            wanted = functional.one_hot(targets, self.classes).to(outputs.dtype)
        else:
            wanted = targets.to(outputs.dtype)
        logits = self.scale * (cosines - self.margin * wanted)
        shares = wanted / wanted.sum(1, keepdim=True).clamp_min(1)
        return -(shares * logits.log_softmax(1)).sum(1).mean()
