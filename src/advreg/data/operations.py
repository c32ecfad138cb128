"""The image operations of AutoAugment and RandAugment on whole batches, on any device.

Each takes levels, (B, C, H, W) float32 whole numbers from 0 to 255, and one magnitude an example,
(B,) float64, and returns levels. They are Pillow's operations, as the papers used them, to the
last integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Operation = Callable[[Tensor, Tensor], Tensor]


def grey(levels: Tensor) -> Tensor:
    """(B, 1, H, W): ITU-R 601-2 luma of three channels, rounded; one channel is its own."""
    if levels.shape[1] == 1:
        return levels
    weights = levels.new_tensor([19595.0, 38470.0, 7471.0]).reshape(3, 1, 1)
    return ((levels * weights).sum(1, keepdim=True) + 32768).div(65536).floor()  # exact: below 2^24


def blend(base: Tensor, levels: Tensor, magnitudes: Tensor) -> Tensor:
    """base + (1 + m) (levels - base), rounded down and clipped."""
    strength = (1 + magnitudes).float().reshape(-1, 1, 1, 1)
    return (base + strength * (levels - base)).clamp(0, 255).floor()


def brightness(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Away from black, or towards it where a magnitude is negative."""
    return blend(torch.zeros_like(levels), levels, magnitudes)


def color(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Away from grey, or towards it."""
    return blend(grey(levels), levels, magnitudes)


def contrast(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Away from the mean grey, or towards it."""
    mean = (grey(levels).mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return blend(mean, levels, magnitudes)


def sharpness(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Away from the image smoothed by a 3x3 kernel, or towards it; the border stays."""
    smooth = levels.clone()
    if min(levels.shape[2:]) > 2:
        kernel = levels.new_ones(levels.shape[1], 1, 3, 3)
        kernel[:, :, 1, 1] = 5
        sums = torch.nn.functional.conv2d(levels, kernel, groups=levels.shape[1])
        smooth[:, :, 1:-1, 1:-1] = (sums / 13 + 0.5).floor()
    return blend(smooth, levels, magnitudes)


def posterize(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Keeps the upper so many bits."""
    step = (2 ** (8 - magnitudes.float())).reshape(-1, 1, 1, 1)
    return (levels / step).floor() * step


def solarize(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Inverts the levels from a threshold on."""
    return torch.where(levels < magnitudes.float().reshape(-1, 1, 1, 1), levels, 255 - levels)


def invert(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Black becomes white; the magnitudes play no part."""
    return 255 - levels


def autocontrast(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Stretches each channel to 0 and 255; the magnitudes play no part."""
    values = levels.flatten(2)
    low, high = values.amin(2, keepdim=True).double(), values.amax(2, keepdim=True).double()
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)  # 255 / x is 255 * (1 / x)
    each = torch.arange(256, device=levels.device, dtype=torch.float64)
    table = (each * scale + -low * scale).floor().clamp(0, 255)  # (B, C, 256), rounded as Pillow
    stretched = table.gather(2, values.long()).reshape(levels.shape).to(levels.dtype)
    return torch.where((high > low)[..., None], stretched, levels)


def equalize(levels: Tensor, magnitudes: Tensor) -> Tensor:
    """Makes each channel's histogram flat; the magnitudes play no part."""
    values = levels.flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=levels.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    highest = values.amax(2, keepdim=True)
    step = (values.shape[2] - counts.gather(2, highest)) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    flat = table.gather(2, values).reshape(levels.shape).to(levels.dtype)
    return torch.where(step[..., None] > 0, flat, levels)


COLOURS: dict[str, Operation] = {
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
}

WARPS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
"""Operations that move pixels: the magnitude is a slope, a number of pixels or an angle."""


def warp_matrices(name: str, magnitudes: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of the result comes from: x' = a x + b y + c, y' alike.

    Shears are about the corner, rotations counterclockwise about the centre, as in Pillow.

    Returns:
        (B, 2, 3) int64, in units of 2^-16 as Pillow's, so that ties fall alike on every device.
        The last column takes a pixel's column and row to its centre, half a pixel further.
    """
    matrices = torch.eye(2, 3, dtype=torch.float64).repeat(len(magnitudes), 1, 1)
    if name == "ShearX":
        matrices[:, 0, 1] = magnitudes
    elif name == "ShearY":
        matrices[:, 1, 0] = magnitudes
    elif name.startswith("Translate"):
        matrices[:, 0 if name == "TranslateX" else 1, 2] = magnitudes
    else:
        angle = magnitudes * (-math.pi / 180)
        cosine, sine = angle.cos(), angle.sin()
        centre = torch.tensor([width / 2, height / 2], dtype=torch.float64)
        matrices[:, 0, 0], matrices[:, 0, 1] = cosine, sine
        matrices[:, 1, 0], matrices[:, 1, 1] = -sine, cosine
        matrices[:, :, 2] = centre - matrices[:, :, :2] @ centre
    matrices[:, :, 2] += matrices[:, :, :2].sum(2) / 2
    return (matrices * 2**16 + 0.5).floor().long()


def warp(levels: Tensor, matrices: Tensor) -> Tensor:
    """Moves pixels, the nearest one each; what comes from outside is black.

    Args:
        levels: (B, C, H, W).
        matrices: (B, 2, 3) int64, of `warp_matrices`.
    """
    height, width = levels.shape[2:]
    down = torch.arange(height, device=levels.device)[:, None]
    across = torch.arange(width, device=levels.device)[None, :]
    parts = matrices[..., None, None].unbind(2)
    found = (parts[0] * across + parts[1] * down + parts[2]) >> 16  # (B, 2, H, W)
    columns, rows = found[:, 0], found[:, 1]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    moved = levels.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, levels.shape[1], -1))
    return moved.reshape(levels.shape) * inside[:, None]
