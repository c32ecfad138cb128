"""Image files that are decoded once they have been chosen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from advreg.data.images import ImageData, check_range
from advreg.errors import DataError
from advreg.extras import needs

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_GREY = ("1", "L")
_DEEP = ("I", "F")
"""Modes of Pillow with more than a byte a pixel; converting them would clip."""


def formats() -> list[str]:
    """What files are opened as whatever their names say: of an EPS file Pillow runs a program."""
    with needs("data", "reading images"):
        from PIL import features

    return ["PNG", "JPEG", "BMP", *(["WEBP"] if features.check("webp") else [])]


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Labelled images as files or as the bytes of files.

    Args:
        files: N paths, or the contents of image files.
        targets: (N,) int64.
        classes: The classes' names.
        origin: Where the images are from, for messages.
        channels: What the images are decoded to: 1 is grey, 3 is colour.
    """

    files: Sequence[bytes | Path]
    targets: Tensor
    classes: tuple[str, ...]
    origin: str
    channels: int = 3

    def __post_init__(self) -> None:
        check_range(self.targets, self.classes, self.origin)

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, indices: Tensor) -> EncodedImages:
        """The images at `indices`, (n,) int64, still undecoded."""
        files = [self.files[index] for index in indices.tolist()]
        return replace(self, files=files, targets=self.targets[indices])

    def all_grey(self) -> bool:
        """Whether no image is coloured, by the files' headers.

        Raises:
            DataError: A file cannot be read.
        """
        for index in range(len(self)):
            with self._opened(index) as image:
                if image.mode not in _GREY:
                    return False
        return True

    def select(self, indices: Tensor) -> ImageData:
        """Decodes the images at `indices`, (n,) int64.

        Raises:
            DataError: There are none, or one cannot be read or has another size than the first.
        """
        if not len(indices):
            raise DataError(f"{self.origin} has no images for one of the splits; add some.")
        images: np.ndarray | None = None
        for row, index in enumerate(indices.tolist()):
            with self._opened(index) as image:
                pixels = np.asarray(image.convert("L" if self.channels == 1 else "RGB"))
            height, width = pixels.shape[:2]
            if images is None:
                images = np.empty((len(indices), self.channels, height, width), dtype=np.uint8)
            if images.shape[2:] != (height, width):
                raise DataError(
                    f"{self._name(index)} has {height}x{width} pixels where the first one has"
                    f" {images.shape[2]}x{images.shape[3]}; bring all images to one size."
                )
            images[row] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return ImageData(torch.from_numpy(images), self.targets[indices], self.classes)

    @contextmanager
    def _opened(self, index: int) -> Iterator[Image.Image]:
        """An image whose header has been read; reading its pixels may fail here too.

        Raises:
            DataError: It cannot be read, is far too large, or has more than 8 bits a channel.
        """
        with needs("data", "reading images"):
            from PIL import Image
        file = self.files[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                source = file if isinstance(file, Path) else BytesIO(file)
                with Image.open(source, formats=formats()) as image:
                    # Of colours at sixteen bits only the decoder's instructions say so.
                    deep = any(";16B" in str(tile[3]) for tile in image.tile)
                    if deep or image.mode.startswith(_DEEP):
                        raise DataError(
                            f"{self._name(index)} has more than 8 bits a channel; convert it to"
                            " 8 bits."
                        )
                    yield image
        except DataError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(
                f"{self._name(index)} claims to have more pixels than {Image.MAX_IMAGE_PIXELS:,};"
                " make it smaller or remove it."
            ) from error
        except Exception as error:  # Pillow's decoders raise of every kind for a broken file
            raise DataError(
                f"{self._name(index)} cannot be read as a PNG, JPEG, BMP or WebP image; repair or"
                " remove it."
            ) from error

    def _name(self, index: int) -> str:
        file = self.files[index]
        return str(file) if isinstance(file, Path) else f"Image {index} of {self.origin}"
