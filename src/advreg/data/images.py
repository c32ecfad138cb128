"""Images in memory: bytes, classes and the three splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.data.mapped import allocate, release, rows_at_once
from advreg.errors import DataError

FEWEST = 1000
"""Classes without names that any number of images may have."""

LOOK = 1000
"""Images that are looked at for bytes that are no brightness: all of a large file take a while."""


def check_range(targets: Tensor, classes: Sequence[str], origin: str = "The data") -> None:
    """Refuses labels that are no class.

    Raises:
        DataError: One is below 0, or not below the number of classes.
    """
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(classes):
        raise DataError(
            f"{origin}: labels run from {targets.min()} to {targets.max()}, and the number of"
            f" classes is {len(classes)}; give labels from 0 to {max(len(classes) - 1, 0)}."
        )


def numbered_classes(targets: Tensor, origin: str = "The data") -> tuple[str, ...]:
    """The numbers up to the highest label, as names of classes that have none.

    Raises:
        DataError: A label is so high that it is no class's.
    """
    most = int(targets.max()) if targets.numel() else -1
    if most >= max(targets.numel(), FEWEST):
        raise DataError(
            f"{origin}: labels run to {most} and the number of images is {targets.numel()}; number"
            " the classes from 0 without gaps, or give their names."
        )
    return tuple(map(str, range(most + 1)))


def as_tensor(values: Any, what: str, mend: str) -> Tensor:
    """Takes numbers from an array, a tensor or nested lists, whatever the order of their bytes.

    Args:
        values: The numbers.
        what: What they are, as the beginning of a message.
        mend: What to give instead of what cannot be taken.

    Raises:
        DataError: They are none that torch knows, or lists of several lengths.
    """
    if isinstance(values, np.ndarray) and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if isinstance(values, np.ndarray) and min(values.strides, default=0) < 0:
        values = values.copy()
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        said = " ".join(str(error).partition(". ")[0].split())
        raise DataError(f"{what} are no numbers that torch takes ({said}); {mend}.") from None


def class_names(given: Any, origin: str = "The data") -> tuple[str, ...]:
    """The classes' names as text, from a list or an array of text or numbers.

    Raises:
        DataError: There is no list of them.
    """
    if isinstance(given, list | tuple) and all(isinstance(name, str) for name in given):
        return tuple(given)
    try:
        array = np.asarray(given)
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8", "backslashreplace")
        if array.ndim == 1 and array.dtype.kind in "Uiu":
            return tuple(str(name) for name in array)
    # Lists of several lengths; Python's word for characters that there are not is SystemError.
    except (TypeError, ValueError, SystemError):
        pass
    raise DataError(f"{origin}: classes is no list of names; give a name for each class.")


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images and their classes, in memory; an example's index is its row here.

    Attributes:
        images: (N, C, H, W) uint8.
        targets: (N,) int64, 0 to len(classes) - 1.
        classes: The classes' names.
        part: Whether the images are some of others, of which alone bytes from 0 to 1 say nothing.

    Raises:
        DataError: The parts do not fit together, or a target or the pixels are out of range.
    """

    images: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    part: InitVar[bool] = False

    def __post_init__(self, part: bool) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or not self.images.numel():
            raise DataError(
                f"Images are {self.images.dtype} of shape {tuple(self.images.shape)}; give at least"
                " one, as uint8 of shape (N, C, H, W), or any array to ImageData.from_arrays."
            )
        if not part and self.images[:LOOK].max() == 1:
            raise DataError(
                "Pixels are bytes from 0 to 1, all but black; give bytes up to 255, or to"
                " ImageData.from_arrays floats in [0, 1]."
            )
        if self.targets.shape != (len(self.images),) or self.targets.dtype != torch.int64:
            raise DataError(
                f"There are {len(self.images)} images and labels of shape"
                f" {tuple(self.targets.shape)} and type {self.targets.dtype}; give one int64 label"
                " for each image."
            )
        check_range(self.targets, self.classes)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @classmethod
    def from_arrays(
        cls,
        images: Tensor | np.ndarray,
        targets: Tensor | np.ndarray | Sequence[int],
        classes: Sequence[str] | None = None,
    ) -> ImageData:
        """Takes images from arrays.

        Args:
            images: (N, H, W) or (N, C, H, W); bytes, or floats in [0, 1] (kept to 1/255).
            targets: (N,) whole numbers.
            classes: The classes' names; the numbers themselves by default.

        Raises:
            DataError: A pixel is NaN or outside [0, 1], a label is no whole number or out of
                range, or the shapes do not fit.
        """
        pixels = as_tensor(images, "Images", "give bytes (uint8) or floats in [0, 1] of one size")
        if pixels.dim() == 3:
            pixels = pixels[:, None]
        if pixels.dim() == 4 and pixels.shape[1] > 4 >= pixels.shape[3]:
            raise DataError(
                f"Images have shape {tuple(pixels.shape)}; move the channels to dimension 1."
            )
        mend = "give each image its class's number, from 0, and the names as classes"
        labels = as_tensor(targets, "Labels", mend)
        if labels.is_complex() or (labels.is_floating_point() and (labels != labels.round()).any()):
            raise DataError("Labels are not whole numbers; give each image its class's number.")
        labels = labels.to(torch.int64)
        names = numbered_classes(labels) if classes is None else class_names(classes)
        return cls(_as_bytes(pixels), labels, names)

    def select(self, indices: Tensor) -> ImageData:
        """The examples at `indices`, (n,) int64, numbered from 0."""
        chosen = allocate((len(indices), *self.images.shape[1:]))
        rows_each = rows_at_once(self.images)
        for rows, into in zip(indices.split(rows_each), chosen.split(rows_each), strict=True):
            torch.index_select(self.images, 0, rows, out=into)
            release(self.images)
            release(chosen)
        return ImageData(chosen, self.targets[indices], self.classes, part=True)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over all pixels, in [0, 1].

        A channel that never changes gets a deviation of 1/255, so that one can divide by it.
        """
        # Sums of whole numbers are exact, hence the same on every machine.
        first = torch.zeros(self.shape[0], dtype=torch.int64)
        second = torch.zeros_like(first)
        for chunk in self.images.split(rows_at_once(self.images)):
            first += chunk.sum((0, 2, 3), dtype=torch.int64)
            second += chunk.int().square_().sum((0, 2, 3), dtype=torch.int64)
            release(self.images)
        count = self.images[:, 0].numel()
        means = [total / count for total in first.tolist()]
        variances = [
            max(total / count - mean**2, 1.0)
            for total, mean in zip(second.tolist(), means, strict=True)
        ]
        return (
            tuple(mean / 255 for mean in means),
            tuple(math.sqrt(variance) / 255 for variance in variances),
        )


def _as_bytes(pixels: Tensor) -> Tensor:
    if not pixels.is_floating_point():
        if pixels.dtype != torch.uint8:
            raise DataError(f"Images are {pixels.dtype}; give bytes (uint8) or floats in [0, 1].")
        return pixels.contiguous()
    if pixels.isnan().any():
        raise DataError("Images hold NaN pixels; remove or repair them.")
    if pixels.numel() and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise DataError(
            f"Pixels run from {pixels.min():g} to {pixels.max():g}; scale them to [0, 1]."
        )
    return (pixels * 255).round().to(torch.uint8).contiguous()


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set as a run sees it.

    Attributes:
        train: What the network learns from.
        validation: What choices are made on; taken from the training images.
        test: What is reported; never used to choose anything.
        name: The data set's name, or its folder's.

    Raises:
        DataError: The splits differ in their classes or in the images' shape.
    """

    train: ImageData
    validation: ImageData
    test: ImageData
    name: str

    def __post_init__(self) -> None:
        for split in ("validation", "test"):
            other: ImageData = getattr(self, split)
            if other.shape != self.train.shape or other.classes != self.train.classes:
                raise DataError(
                    f"{self.name}: training images have shape {self.train.shape} and"
                    f" {len(self.train.classes)} classes, those for {split} {other.shape} and"
                    f" {len(other.classes)}; give both the same size, channels and classes."
                )
