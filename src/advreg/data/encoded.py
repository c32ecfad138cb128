"""Image files that are decoded once they have been chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advreg.data.images import ImageData, check_range
from advreg.errors import DataError

_GREY = ("1", "L")
_DEEP = ("I", "F")
"""Modes of Pillow with more than a byte a pixel; converting them would clip."""


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Labelled images as files or as the bytes of files.

    Args:
        files: N paths, or the contents of image files.
        targets: (N,) int64.
        classes: The classes' names.
        origin: Where the images are from, for messages.
    """

    files: Sequence[bytes | Path]
    targets: Tensor
    classes: tuple[str, ...]
    origin: str

    def __post_init__(self) -> None:
        check_range(self.targets, self.classes, self.origin)

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, indices: Tensor) -> EncodedImages:
        """The images at `indices`, (n,) int64, still undecoded."""
        files = [self.files[index] for index in indices.tolist()]
        return EncodedImages(files, self.targets[indices], self.classes, self.origin)

    def select(self, indices: Tensor) -> ImageData:
        """Decodes the images at `indices`, (n,) int64.

        Grey images stay grey; among coloured ones they get three channels.

        Raises:
            DataError: There are none, or one cannot be read or has another size than the first.
        """
        if not len(indices):
            raise DataError(f"{self.origin} has no images for one of the splits; add some.")
        arrays: list[np.ndarray] = []
        for index in indices.tolist():
            array = self._decode(index)
            if arrays and array.shape[:2] != arrays[0].shape[:2]:
                height, width = array.shape[:2]
                raise DataError(
                    f"{self._name(index)} has {height}x{width} pixels where the first one has"
                    f" {arrays[0].shape[0]}x{arrays[0].shape[1]}; bring all images to one size."
                )
            arrays.append(array)
        channels = max(array.shape[2] for array in arrays)
        images = np.empty((len(arrays), channels, *arrays[0].shape[:2]), dtype=np.uint8)
        for place, array in zip(images, arrays, strict=True):
            place[:] = array.transpose(2, 0, 1)
        return ImageData(torch.from_numpy(images), self.targets[indices], self.classes)

    def _decode(self, index: int) -> np.ndarray:
        file = self.files[index]
        try:
            with Image.open(file if isinstance(file, Path) else BytesIO(file)) as image:
                if image.mode.startswith(_DEEP):
                    raise DataError(
                        f"{self._name(index)} has more than 8 bits a channel; convert it to 8 bits."
                    )
                pixels = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
        except DataError:
            raise
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises each for a broken file
            raise DataError(
                f"{self._name(index)} cannot be read as an image; repair or remove it."
            ) from error
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def _name(self, index: int) -> str:
        file = self.files[index]
        return str(file) if isinstance(file, Path) else f"Image {index} of {self.origin}"
