"""Pictures of many small images."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from advreg.extras import needs
from advreg.files import replace_file

with needs("data", "drawing images"):
    from PIL import Image

SMALLEST = 32
"""Pixels a side below which images are enlarged, each pixel to a square."""

GAP = 2


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Images side by side.

    Args:
        images: (N, C, H, W) in [0, 1], grey or coloured.
        columns: Images in a row; None makes about a square.

    Returns:
        (H', W', 3) uint8, white between the images.
    """
    scale = max(math.ceil(SMALLEST / images.shape[-1]), 1)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    pixels = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    columns = columns or math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    height, width = pixels.shape[2] + GAP, pixels.shape[3] + GAP
    canvas = torch.full((rows * height - GAP, columns * width - GAP, 3), 255, dtype=torch.uint8)
    for place, image in enumerate(pixels):
        top, left = height * (place // columns), width * (place % columns)
        canvas[top : top + height - GAP, left : left + width - GAP] = image.permute(1, 2, 0)
    return canvas


def write_grid(path: Path, images: Tensor, columns: int | None = None) -> None:
    """Writes the grid of images, (N, C, H, W) in [0, 1], as PNG."""
    picture = Image.fromarray(grid(images, columns).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda name: picture.save(name, format="PNG"))


def beside(images: Tensor, others: Tensor, columns: int = 8) -> Tensor:
    """Rows of images above rows of others, in turn: (2 N, C, H, W) for a grid of so many columns.

    Args:
        images: (N, C, H, W), N a multiple of `columns`.
        others: (N, C, H, W), what belongs under each image.
        columns: Of the grid.
    """
    rows = torch.stack([images.unflatten(0, (-1, columns)), others.unflatten(0, (-1, columns))], 1)
    return rows.flatten(0, 2)
