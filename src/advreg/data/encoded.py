"""Image files that are decoded once they have been chosen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from advreg.data.images import ImageData, check_range
from advreg.data.mapped import allocate, release
from advreg.decoding import large_images_refused, opened
from advreg.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_GREY = ("1", "L")
_CHUNK = 256
"""Images decoded in a row by one thread."""


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Labelled images as files or as the bytes of files.

    Args:
        files: Paths, or the contents of image files; of each one label.
        targets: (N,) int64.
        classes: The classes' names.
        origin: Where the images are from, for messages.
        channels: What the images are decoded to: 1 is grey, 3 is colour.
        places: (N,) int64, where among `files` the images stand; None is all in order.
    """

    files: Sequence[bytes | Path]
    targets: Tensor
    classes: tuple[str, ...]
    origin: str
    channels: int = 3
    places: Tensor | None = None

    def __post_init__(self) -> None:
        check_range(self.targets, self.classes, self.origin)

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Tensor) -> EncodedImages:
        """The images at `indices`, (n,) int64, still undecoded."""
        places = indices if self.places is None else self.places[indices]
        return replace(self, places=places, targets=self.targets[indices])

    def all_grey(self) -> bool:
        """Whether no image is coloured, by the files' headers.

        Raises:
            DataError: A file cannot be read.
        """
        with large_images_refused():
            for place in self._places(torch.arange(len(self))).sort().values.tolist():
                with self._opened(place) as image:
                    if image.mode not in _GREY:
                        return False
        return True

    def select(self, indices: Tensor) -> ImageData:
        """Decodes the images at `indices`, (n,) int64, on every core.

        Raises:
            DataError: There are none, or one cannot be read or has another size than the first.
        """
        if not len(indices):
            raise DataError(f"{self.origin} has no images for one of the splits; add some.")
        places = self._places(indices)
        with large_images_refused(), ThreadPoolExecutor(_cores()) as pool:
            with self._opened(int(places[0])) as first:
                images = allocate((len(indices), self.channels, *reversed(first.size)))

            def decode(rows: Tensor) -> None:
                for row in rows.tolist():
                    images[row] = self._of_size(int(places[row]), images.shape[1:])
                release(images)

            # In the order in which they are stored, so that a file of many is read once.
            for _ in pool.map(decode, places.argsort(stable=True).split(_CHUNK)):
                pass
        return ImageData(images, self.targets[indices], self.classes, part=True)

    def _places(self, indices: Tensor) -> Tensor:
        return indices if self.places is None else self.places[indices]

    def _decoded(self, place: int) -> Tensor:
        with self._opened(place) as image:
            pixels = np.array(image.convert("L" if self.channels == 1 else "RGB"))
        return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))

    def _of_size(self, place: int, shape: Sequence[int]) -> Tensor:
        pixels = self._decoded(place)
        if pixels.shape != shape:
            height, width = pixels.shape[1:]
            raise DataError(
                f"{self._name(place)} has {height}x{width} pixels where the first one has"
                f" {shape[1]}x{shape[2]}; bring all images to one size."
            )
        return pixels

    def _opened(self, place: int) -> AbstractContextManager[Image.Image]:
        return opened(self.files[place], self._name(place))

    def _name(self, place: int) -> str:
        file = self.files[place]
        return str(file) if isinstance(file, Path) else f"Image {place} of {self.origin}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
