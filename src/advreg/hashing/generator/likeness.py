"""How generated images are like the training images, and like each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

COMPARED = 500
"""Images of each kind that are compared with each other."""

BLOCK = 5000
"""Training images read at once."""

COLLAPSED = 0.5
"""Below this share of the training images' mean distance, generated ones are nearly all alike."""

REMEMBERED = 0.5
"""Below this share of the training images' distance to their nearest, they are copies."""

REPEATED = 0.25
"""Below this share of as many training images' distance to their nearest, they are a few images."""


def nearest_images(images: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """The training image nearest to each image, by Euclidean distance of the pixels.

    Args:
        images: (N, C, H, W) in [0, 1].
        training: (M, C, H, W) uint8; it is compared block by block, so that memory is bounded.

    Returns:
        (N,) int64 places in `training`, and (N,) distances.
    """
    points = images.flatten(1)
    distances = torch.full((len(points),), torch.inf)
    places = torch.zeros(len(points), dtype=torch.int64)
    for start in range(0, len(training), BLOCK):
        block = training[start : start + BLOCK].flatten(1).float() / 255
        found = torch.cdist(points, block).min(1)
        nearer = found.values < distances
        distances = found.values.where(nearer, distances)
        places = (found.indices + start).where(nearer, places)
    return places, distances


@dataclass(frozen=True)
class Likeness:
    """Three ratios, all near 1 for a generator that is as varied as the data.

    Attributes:
        spread: The mean distance between two generated images over that of two training images.
        distance_to_training: The median distance of a generated image to its nearest training
            image, over that of a training image to its nearest other one.
        distance_to_others: The median distance of a generated image to its nearest other generated
            one, over that among as many training images. It is what a few images that come again
            and again lower, when they are so different that the spread is not.
    """

    spread: float
    distance_to_training: float
    distance_to_others: float

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return asdict(self)

    @property
    def collapsed(self) -> bool:
        """Whether generated images are nearly all alike."""
        return self.spread < COLLAPSED

    @property
    def repeated(self) -> bool:
        """Whether they are a few images that come again and again."""
        return self.distance_to_others < REPEATED

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
        self.images = images
        few = images[:COMPARED].float() / 255
        self.spread = _mean_distance(few.flatten(1))
        self.apart = float(_nearest_others(few, images).median())

    def compare(self, generated: Tensor) -> Likeness:
        """How like generated images, (N, C, H, W) in [0, 1], are; the first 500 are compared."""
        few = generated[:COMPARED]
        _, distances = nearest_images(few, self.images)
        least = torch.finfo(torch.float32).tiny
        count = min(len(few), len(self.images))  # the more there are, the nearer is the nearest
        training = self.images[:count].float() / 255
        return Likeness(
            _mean_distance(few.flatten(1)) / max(self.spread, least),
            float(distances.median()) / max(self.apart, least),
            _distance_to_others(few[:count]) / max(_distance_to_others(training), least),
        )


def _nearest_others(few: Tensor, training: Tensor) -> Tensor:
    """The distance of each of the first training images to the nearest other one, (N,)."""
    points = few.flatten(1)
    distances = torch.full((len(points),), torch.inf)
    for start in range(0, len(training), BLOCK):
        block = training[start : start + BLOCK].flatten(1).float() / 255
        found = torch.cdist(points, block)
        if start == 0:
            found.fill_diagonal_(torch.inf)
        distances = torch.minimum(distances, found.amin(1))
    return distances


def _distance_to_others(images: Tensor) -> float:
    """The median distance of each image to the nearest other one."""
    points = images.flatten(1)
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    return float(distances.amin(1).median())


def _mean_distance(points: Tensor) -> float:
    return float(torch.pdist(points).mean()) if len(points) > 1 else 0.0


def diagnosis(likeness: Likeness) -> str | None:
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
    if likeness.repeated:
        return (
            "The generator makes a few images again and again: the nearest two of them differ by"
            f" {likeness.distance_to_others:.0%} of what near training images do; train it with a"
            " lower learning rate, more critic_steps or another seed."
        )
    return None
