"""The triplet ranking loss on relaxed codes, over all, the hardest or semi-hard triplets."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from advreg.errors import ConfigurationError, DataError
from advreg.hashing.codes import relaxed
from advreg.hashing.losses.base import HashLoss, similar, squared_distances
from advreg.units import Number, non_negative

Mining = Literal["all", "hard", "semi-hard"]


class Triplet(HashLoss):
    """max(0, m + |h - h+|^2 - |h - h-|^2), the mean over triplets of a mini-batch.

    The loss of Geng et al. (arXiv 1803.09466), h = sigmoid(u) in (0, 1). h+ is of an image similar
    to h's, h- of one that is not. Which triplets:

    - "all": every one that the mini-batch holds, the ones without a loss included.
    - "hard": of each anchor the farthest h+ and the nearest h- (Hermans et al. 2017,
      arXiv 1703.07737, "batch hard").
    - "semi-hard": of each pair h, h+ the nearest h- that is farther than h+, or where there is none
      the farthest h- (Schroff et al., CVPR 2015, arXiv 1503.03832).

    Args:
        bits: q.
        classes: Unused; every loss takes it.
        margin: m, in units of the squared distance, whose largest value is q; None is q / 4.
        mining: Which triplets.

    Raises:
        ConfigurationError: The margin is negative, or there is no such mining.
    """

    name: ClassVar[str] = "triplet"

    def __init__(
        self,
        bits: int,
        classes: int,
        margin: Number | None = None,
        mining: Mining = "all",
    ) -> None:
        super().__init__(bits, classes)
        self.margin = bits / 4 if margin is None else non_negative(margin, "margin")
        if mining not in ("all", "hard", "semi-hard"):
            raise ConfigurationError(f"mining is {mining!r}; give all, hard or semi-hard.")
        self.mining = mining

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `HashLoss.forward`."""
        same = similar(targets)
        distances = squared_distances(relaxed(outputs))
        positives = same.clone().fill_diagonal_(False)
        check_triplets(positives, same)
        if self.mining == "hard":
            near, far = _hardest(distances, positives, same)
            return functional.relu(self.margin + near - far).mean()
        anchors, partners = (positives & (~same).any(1, keepdim=True)).nonzero(as_tuple=True)
        near, others = distances[anchors, partners], distances[anchors]
        strangers = ~same[anchors]
        if self.mining == "all":
            excess = functional.relu(self.margin + near[:, None] - others)
            return excess[strangers].mean()
        far = _semi_hard(near, others, strangers)
        return functional.relu(self.margin + near - far).mean()


def check_triplets(positives: Tensor, same: Tensor) -> None:
    """Refuses a mini-batch without a triplet.

    Args:
        positives: (B, B) bool, similar pairs of two different images.
        same: (B, B) bool, similar pairs.

    Raises:
        DataError: No image has both a similar and a dissimilar one beside it.
    """
    if not (positives.any(1) & (~same).any(1)).any():
        reason = "a dissimilar" if positives.any() else "a similar"
        raise DataError(
            f"No image of this mini-batch of {len(same)} has {reason} one beside it, so that it"
            " holds no triplet; give a larger batch_size, or at least two classes."
        )


def _hardest(distances: Tensor, positives: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Each anchor's distance to the farthest similar and the nearest dissimilar image."""
    anchors = positives.any(1) & (~same).any(1)
    near = distances.masked_fill(~positives, -torch.inf)[anchors].amax(1)
    return near, distances.masked_fill(same, torch.inf)[anchors].amin(1)


def _semi_hard(near: Tensor, others: Tensor, strangers: Tensor) -> Tensor:
    """Of each pair at distance `near`, (P,), the distance of the dissimilar image to take.

    Args:
        near: (P,) distances of the pairs.
        others: (P, B) distances of the mini-batch from each pair's anchor.
        strangers: (P, B) bool, which of them are dissimilar.
    """
    beyond = others.masked_fill(~strangers | (others <= near[:, None]), torch.inf).amin(1)
    farthest = others.masked_fill(~strangers, -torch.inf).amax(1)
    return torch.where(beyond.isinf(), farthest, beyond)
