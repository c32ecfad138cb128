"""Augmentation that lets the gradient through, for a critic with few images."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 1 / 8
"""The farthest that an image is moved, as a share of its size."""

HOLE = 1 / 2
"""The side of the square that is cut out, as a share of the image's."""


def diff_augment(images: Tensor, random: torch.Generator) -> Tensor:
    """Colour, translation and cutout on real and generated images alike.

    DiffAugment (Zhao, Liu, Lin, Zhu, Han; NeurIPS 2020, arXiv 2006.10738): the critic sees
    augmented images alone, and the generator learns through the augmentation, which it need not
    imitate.

    Args:
        images: (B, C, H, W) in [-1, 1].
        random: On the CPU, for the same draws on every device.

    Returns:
        (B, C, H, W), differentiable.
    """
    return cutout(translated(coloured(images, random), random), random)


def coloured(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image's brightness moved by up to 1/2, saturation times 0 to 2, contrast 1/2 to 3/2.

    Grey images have no saturation.
    """
    draws = torch.rand(3, len(images), 1, 1, 1, generator=random).to(images)
    images = images + draws[0] - 0.5
    if images.shape[1] > 1:
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * (2 * draws[1]) + grey
    middle = images.mean((1, 2, 3), keepdim=True)
    return (images - middle) * (draws[2] + 0.5) + middle


def translated(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image moved by up to an eighth of its size; zeros come in from outside."""
    count, _, height, width = images.shape
    rows = _moved(height, count, random).to(images.device)
    columns = _moved(width, count, random).to(images.device)
    # A border of zeros, at which every place outside is read.
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    examples = torch.arange(count, device=images.device)[:, None, None]
    found = padded.permute(0, 2, 3, 1)[examples, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2)


def _moved(size: int, count: int, random: torch.Generator) -> Tensor:
    """Of each image, the padded row behind each row of the result; (count, size) int64."""
    reach = int(size * SHIFT + 0.5)
    moves = torch.randint(-reach, reach + 1, (count, 1), generator=random)
    return (torch.arange(size) + moves + 1).clamp(0, size + 1)


def cutout(images: Tensor, random: torch.Generator) -> Tensor:
    """A square of half the size set to zero; its middle may be anywhere in the image."""
    count, _, height, width = images.shape
    inside = torch.ones(count, 1, 1, 1, dtype=torch.bool)
    for axis, size in ((2, height), (3, width)):
        hole = int(size * HOLE + 0.5)
        middle = torch.randint(size + (1 - hole % 2), (count, 1), generator=random)
        places = torch.arange(size) - (middle - hole // 2)
        shape = [count, 1, 1, 1]
        shape[axis] = size
        inside = inside & ((places >= 0) & (places < hole)).view(shape)
    return images * (~inside).to(images)
