"""How generated images are like the training images, and like each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

LOOKED_AT = 500
"""Images of each kind that are compared with each other."""

COLLAPSED = 0.5
"""Below this share of the training images' mean distance, generated ones are nearly all alike."""

REMEMBERED = 0.5
"""Below this share of the training images' distance to their nearest, they are copies."""


def nearest_images(images: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """The training image nearest to each image, by Euclidean distance of the pixels.

    Args:
        images: (N, C, H, W) in [0, 1].
        training: (M, C, H, W) in [0, 1].

    Returns:
        (N,) int64 places in `training`, and (N,) distances.
    """
    places, distances = [], []
    for part in images.flatten(1).split(LOOKED_AT):
        found = torch.cdist(part, training.flatten(1)).min(1)
        places.append(found.indices)
        distances.append(found.values)
    return torch.cat(places), torch.cat(distances)


@dataclass(frozen=True)
class Likeness:
    """Two ratios, both near 1 for a generator that is as varied as the data.

    Attributes:
        spread: The mean distance between two generated images over that of two training images.
        distance_to_training: The median distance of a generated image to its nearest training
            image, over that of a training image to its nearest other one.
    """

    spread: float
    distance_to_training: float

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return asdict(self)

    @property
    def collapsed(self) -> bool:
        """Whether generated images are nearly all alike."""
        return self.spread < COLLAPSED

    @property
    def remembered(self) -> bool:
        """Whether they are nearly those of the training."""
        return self.distance_to_training < REMEMBERED


class TrainingImages:
    """The training images' distances to each other, measured once.

    Args:
        images: (N, C, H, W) uint8, at least two.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images.float() / 255
        few = self.images[:LOOKED_AT].flatten(1)
        self.spread = _mean_distance(few)
        to_all = torch.cdist(few, self.images.flatten(1))
        to_all[torch.arange(len(few)), torch.arange(len(few))] = torch.inf
        self.apart = float(to_all.amin(1).median())

    def compare(self, generated: Tensor) -> Likeness:
        """How like generated images, (N, C, H, W) in [0, 1], are; the first 500 are compared."""
        few = generated[:LOOKED_AT]
        _, distances = nearest_images(few, self.images)
        least = torch.finfo(torch.float32).tiny
        return Likeness(
            _mean_distance(few.flatten(1)) / max(self.spread, least),
            float(distances.median()) / max(self.apart, least),
        )


def _mean_distance(points: Tensor) -> float:
    return float(torch.pdist(points).mean()) if len(points) > 1 else 0.0


def complaint(likeness: Likeness) -> str | None:
    """What is wrong with a generator, in a sentence; None where nothing is."""
    if likeness.collapsed:
        return (
            "The generator's images are nearly all alike: two of them differ by"
            f" {likeness.spread:.0%} of what two training images do; train it with a lower learning"
            " rate, more critic_steps or another seed."
        )
    if likeness.remembered:
        return (
            "The generator's images are nearly those that it was trained on: they are at"
            f" {likeness.distance_to_training:.0%} of the distance between near training images;"
            " train it on more images, with augment=true or for fewer steps."
        )
    return None
