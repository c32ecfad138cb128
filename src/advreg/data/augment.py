"""Augmentations of a batch on its device: Cutout, RandAugment and AutoAugment.

Random numbers are drawn apart from what they do (`draw_cutout`, `draw_randaugment`,
`draw_autoaugment`, for a whole epoch at once), so that any step of an epoch can be the first;
what they do is a function of batch and draw. None of them can be undone, unlike a crop and a
flip: batches say so by an `advreg.batch.LossyView`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from advreg.data.operations import COLOURS, WARPS, warp, warp_matrices
from advreg.errors import ConfigurationError

WINDOWS = ("none", "crop", "crop_flip")
"""Nothing; a random window of the padded image; that, and mirrored half of the time."""

POLICIES = ("randaugment", "autoaugment")

AUGMENTATIONS = tuple(
    "+".join(part for part in parts if part) or "none"
    for parts in product(("", "crop", "crop_flip"), ("", *POLICIES), ("", "cutout"))
)
"""A window, a policy and Cutout, joined by a plus in this order, each of which may be left out."""

OPERATIONS = ("Identity", *WARPS, *COLOURS)
"""Names of the operations; a `Plan` holds places in here."""

SIGNED = (*WARPS, "Brightness", "Color", "Contrast", "Sharpness")
"""Operations whose magnitude is negative half of the time."""

RANDAUGMENT = tuple(name for name in OPERATIONS if name != "Invert")
"""The 14 operations of RandAugment."""

# (operation, probability, magnitude 0 to 9), twice; Cubuk et al. 2019, table 7.
CIFAR10_POLICY = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


@dataclass(frozen=True)
class Plan:
    """Which operations each example gets, one after the other.

    Both are on the CPU, where they are sorted by operation without waiting for the device.

    Attributes:
        operations: (N, B) int64, places in `OPERATIONS`.
        magnitudes: (N, B) float64, in each operation's unit.
    """

    operations: Tensor
    magnitudes: Tensor

    def part(self, part: slice | Tensor) -> Plan:
        """The plan of some of the examples."""
        return Plan(self.operations[:, part], self.magnitudes[:, part])


def magnitude(name: str, share: float, height: int, width: int) -> float:
    """An operation's magnitude at a share, 0 to 1, of its strongest, without a sign.

    The ranges are torchvision's: slopes to 0.3, translations to 150/331 of the side in whole
    pixels, angles to 30 degrees, 1 to 1.9 in brightness and its like, 8 to 4 bits, thresholds
    from 255 to 0.
    """
    strongest = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0, "Brightness": 0.9, "Color": 0.9,
                 "Contrast": 0.9, "Sharpness": 0.9}  # fmt: skip
    if name.startswith("Translate"):
        return float(int(share * 150 / 331 * (width if name == "TranslateX" else height)))
    if name == "Posterize":
        return 8.0 - round(4 * share)
    if name == "Solarize":
        return 255.0 - 255.0 * share
    return share * strongest.get(name, 0.0)


def draw_randaugment(
    count: int,
    height: int,
    width: int,
    generator: torch.Generator,
    *,
    number: int = 2,
    level: int = 9,
) -> Plan:
    """Draws operations of one strength, each of the 14 alike (Cubuk et al. 2020, arXiv 1909.13719).

    Args:
        count: Number of examples B.
        height: Of the images.
        width: Of the images.
        generator: On the CPU.
        number: Operations an example, the paper's N; 2 is torchvision's default.
        level: Their strength, the paper's M, from 0 to 30; 9 is torchvision's default. The paper
            tunes both for each data set and network.
    """
    chosen = torch.randint(len(RANDAUGMENT), (number, count), generator=generator)
    signs = torch.where(torch.rand(number, count, generator=generator) < 0.5, -1.0, 1.0)
    table = [magnitude(name, level / 30, height, width) for name in RANDAUGMENT]
    places = torch.tensor([OPERATIONS.index(name) for name in RANDAUGMENT])[chosen]
    return _signed(places, torch.tensor(table, dtype=torch.float64)[chosen], signs)


def draw_autoaugment(count: int, height: int, width: int, generator: torch.Generator) -> Plan:
    """Draws pairs of operations from CIFAR-10's policy (Cubuk et al. 2019, arXiv 1805.09501).

    Args:
        count: Number of examples B.
        height: Of the images.
        width: Of the images.
        generator: On the CPU.
    """
    chosen = torch.randint(len(CIFAR10_POLICY), (count,), generator=generator)
    happens = torch.rand(2, count, generator=generator)
    signs = torch.where(torch.rand(2, count, generator=generator) < 0.5, -1.0, 1.0)
    names = [[OPERATIONS.index(step[0]) for step in pair] for pair in CIFAR10_POLICY]
    chances = [[step[1] for step in pair] for pair in CIFAR10_POLICY]
    table = [
        [magnitude(name, level / 9, height, width) for name, _, level in pair]
        for pair in CIFAR10_POLICY
    ]
    places = torch.tensor(names).T[:, chosen]
    places[happens >= torch.tensor(chances).T[:, chosen]] = OPERATIONS.index("Identity")
    return _signed(places, torch.tensor(table, dtype=torch.float64).T[:, chosen], signs)


def _signed(places: Tensor, magnitudes: Tensor, signs: Tensor) -> Plan:
    both = torch.tensor([name in SIGNED for name in OPERATIONS])
    return Plan(places, torch.where(both[places], signs * magnitudes, magnitudes))


def apply_plan(images: Tensor, plan: Plan) -> Tensor:
    """Applies to each image its own operations, those of one kind at once.

    Args:
        images: (B, C, H, W), grey or RGB; bytes, or floats in [0, 1], which are rounded to bytes.
        plan: Of as many examples.

    Returns:
        Images of the same type and shape.

    Raises:
        ConfigurationError: The images have neither one channel nor three.
    """
    if images.shape[1] not in (1, 3):
        raise ConfigurationError(
            f"The images have {images.shape[1]} channels and the policies are for 1 or 3; choose"
            " an augmentation without randaugment and autoaugment."
        )
    whole = not images.is_floating_point()
    levels = images.float() if whole else (images.float() * 255).round()
    for places, magnitudes in zip(plan.operations, plan.magnitudes, strict=True):
        levels = _one_each(levels, places, magnitudes)
    return levels.to(images.dtype) if whole else (levels / 255).to(images.dtype)


def _one_each(levels: Tensor, places: Tensor, magnitudes: Tensor) -> Tensor:
    """One operation for each image."""
    height, width = levels.shape[2:]
    result = levels.clone()
    moved, matrices = [], []
    for place in places.unique().tolist():
        name, rows = OPERATIONS[place], (places == place).nonzero().flatten()
        if name in WARPS:
            moved.append(rows)
            matrices.append(warp_matrices(name, magnitudes[rows], height, width))
        elif name != "Identity":
            there = rows.to(levels.device)
            strengths = magnitudes[rows].to(levels.device)
            result[there] = COLOURS[name](levels[there], strengths)
    if moved:
        there = torch.cat(moved).to(levels.device)
        result[there] = warp(levels[there], torch.cat(matrices).to(levels.device))
    return result


def draw_cutout(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Centres of the squares, (2, B) int64 rows and columns, anywhere in the image."""
    rows = torch.randint(height, (count,), generator=generator)
    return torch.stack([rows, torch.randint(width, (count,), generator=generator)])


def cutout(images: Tensor, centres: Tensor, side: int, fill: float | Tensor = 0.0) -> Tensor:
    """Covers a square of each image, part of which may lie outside.

    DeVries and Taylor 2017, arXiv 1708.04552: side 16 on CIFAR-10, 8 on CIFAR-100, 20 on SVHN,
    filled with the data's mean, which is 0 after normalisation.

    Args:
        images: (B, C, H, W).
        centres: (2, B) rows and columns; the square begins side // 2 before them.
        side: Of the square, in pixels.
        fill: What the square shows: one number, or (C, 1, 1).

    Returns:
        Images of the same type and shape.
    """
    height, width = images.shape[2:]
    inside = []
    for centre, size in zip(centres.to(images.device), (height, width), strict=True):
        offset = torch.arange(size, device=images.device) - (centre[:, None] - side // 2)
        inside.append((offset >= 0) & (offset < side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, torch.as_tensor(fill, device=images.device), images).to(images.dtype)


class Distortion:
    """What an augmentation does after crop and flip: a policy on bytes, then Cutout.

    Cutout's square is half the image's height, 16 for 32x32, and shows the data's mean.

    Args:
        names: Of `POLICIES` and "cutout", in this order.
        shape: Channels, height and width of the images.
        mean: The data's channel means in [0, 1], (C,), on the images' device.
    """

    def __init__(self, names: Sequence[str], shape: tuple[int, int, int], mean: Tensor) -> None:
        self.policy = next((name for name in names if name in POLICIES), None)
        self.size = shape[1:]
        self.side = shape[1] // 2 if "cutout" in names else 0
        self.mean = mean[:, None, None]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Plan | None, Tensor | None]:
        """The random numbers of an epoch: the policy's plan and Cutout's centres."""
        plan = None
        if self.policy is not None:
            draw = draw_randaugment if self.policy == "randaugment" else draw_autoaugment
            plan = draw(count, *self.size, generator)
        centres = draw_cutout(count, *self.size, generator) if self.side else None
        return plan, None if centres is None else centres.to(self.mean.device)

    def apply(
        self, pixels: Tensor, drawn: tuple[Plan | None, Tensor | None], part: slice | Tensor
    ) -> Tensor:
        """Takes (B, C, H, W) uint8 and which part of the draws is theirs; returns float32."""
        plan, centres = drawn
        if plan is not None:
            pixels = apply_plan(pixels, plan.part(part))
        inputs = pixels / 255
        return inputs if centres is None else cutout(inputs, centres[:, part], self.side, self.mean)
