"""Images to index and to search with: from files or from the data of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.decoding import SUFFIXES, large_images_refused, opened
from advreg.errors import DataError
from advreg.extras import needs
from advreg.files import replace_file
from advreg.hashing.data import HashImages
from advreg.hashing.index import HammingIndex
from advreg.hashing.run import HashRun

with needs("data", "drawing images"):
    from PIL import Image, ImageDraw

TOGETHER = 500
"""Images read and encoded at once."""

SIDE = 72
TEXT = 16
GAP = 6
"""Pixels of a picture's images, of the line under each, and between them."""


def read_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """An image file as a network takes it: its middle square, scaled.

    Args:
        path: The file.
        shape: Channels (1 for grey), height and width.

    Returns:
        (C, H, W) uint8.

    Raises:
        DataError: There is no such file, or it is no image of 8 bits a channel and of a fair size.
    """
    channels, height, width = shape
    if not os.path.isfile(path):  # of no name, however odd, an error of its own
        raise DataError(f"There is no file {path}; name an image file, or an id of the run's data.")
    with large_images_refused(), opened(path, str(path)) as file:
        image = file.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).reshape(height, width, channels).permute(2, 0, 1)


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, in the order of their names.

    Raises:
        DataError: There are none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; name a folder of images.")
    found = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES)
    )
    if not found:
        raise DataError(f"{folder} holds no images; name a folder of {', '.join(SUFFIXES)} files.")
    return found


def index_folder(
    run: HashRun,
    folder: Path,
    kind: str = "exact",
    report: Callable[[int, int], object] | None = None,
) -> HammingIndex:
    """An index of a folder of image files, by their paths; few are in memory at a time.

    Args:
        run: Whose network makes the codes.
        folder: Searched through with what is below it.
        kind: As of `HammingIndex`.
        report: Called with the images done and all images.

    Raises:
        AdvregError: There are no images, one cannot be read, or the index cannot be made.
    """
    files = image_files(folder)
    codes = []
    for start in range(0, len(files), TOGETHER):
        part = files[start : start + TOGETHER]
        images = torch.stack([read_image(path, run.image_shape) for path in part])
        codes.append(run.network.encode(images.float() / 255))
        if report is not None:
            report(start + len(part), len(files))
    names = [str(path) for path in files]
    return HammingIndex(np.concatenate(codes), run.network.bits, run.identity, names, kind)


def index_split(run: HashRun, kind: str = "exact") -> HammingIndex:
    """An index of the database images of a run's own split, by their ids.

    Raises:
        AdvregError: The data are other ones, or the index cannot be made.
    """
    chosen = run.split().database
    codes = run.codes[chosen.numpy()]
    names = [str(number) for number in chosen.tolist()]
    return HammingIndex(codes, run.network.bits, run.identity, names, kind)


class Gallery:
    """Finds images by name: a file's path, or an id in the data of a run.

    Args:
        run: Whose data, and whose size of images.
    """

    def __init__(self, run: HashRun) -> None:
        self.run = run
        self._data: HashImages | None = None

    def load(self, names: Sequence[str]) -> Tensor:
        """Images by name, (N, C, H, W) in [0, 1].

        Raises:
            DataError: There is no such image.
        """
        return torch.stack([self._image(name) for name in names]).float() / 255

    def _image(self, name: str) -> Tensor:
        if not name.isdecimal() or Path(name).is_file():
            return read_image(Path(name), self.run.image_shape)
        if self._data is None:
            self._data = self.run.images()
        if int(name) >= len(self._data):
            raise DataError(
                f"There is no image {name} in {self._data.name}; give an id from 0 to"
                f" {len(self._data) - 1}, or a file."
            )
        return self._data.images[int(name)]


def draw_results(
    path: Path,
    load: Callable[[str], Tensor],
    asked: Tensor,
    rows: Sequence[dict[str, Any]],
) -> None:
    """Writes a picture: a row for each query, with the nearest images and their distances.

    What is known to be wrong has a red line under it, and a cross before its distance.

    Args:
        path: Of the PNG.
        load: From a name to a (C, H, W) image in [0, 1].
        asked: (Q, C, H, W) queries in [0, 1].
        rows: As in `search.json`; of each `nearest` the `name`, the `distance` and perhaps whether
            it is `right`.
    """
    columns = 1 + max(len(row["nearest"]) for row in rows)
    size = (columns * (SIDE + GAP) + 3 * GAP, len(rows) * (SIDE + TEXT + GAP) + GAP)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)

    def place(image: Tensor, text: str, left: int, top: int) -> None:
        canvas.paste(_picture(image), (left, top))
        pen.text((left, top + SIDE + 2), text, fill="black")

    for number, (image, row) in enumerate(zip(asked, rows, strict=True)):
        top = GAP + number * (SIDE + TEXT + GAP)
        place(image, "query", GAP, top)
        left = 3 * GAP + SIDE
        for near in row["nearest"]:
            wrong, distance = near.get("right") is False, near["distance"]
            bits = f"{distance} bit{'s' * (distance != 1)}"
            place(load(near["name"]), f"{'x ' * wrong}{bits}", left, top)
            if wrong:
                pen.rectangle((left, top + SIDE - 3, left + SIDE - 1, top + SIDE), fill="#d00000")
            left += SIDE + GAP
    replace_file(path, lambda name: canvas.save(name, format="PNG"))


def _picture(image: Tensor) -> Image.Image:
    """(C, H, W) in [0, 1] as a square of the picture."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels
    found = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return found.resize((SIDE, SIDE), Image.Resampling.NEAREST)
