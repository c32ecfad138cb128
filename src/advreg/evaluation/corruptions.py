"""Common corruptions: a CIFAR-10-C folder of the user's, or a small set computed here."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from advreg.data.splits import stratified_order
from advreg.errors import DataError
from advreg.evaluation.accuracy import Images
from advreg.extras import needs
from advreg.files import load_array

OWN = "advreg corruptions, not CIFAR-10-C"
"""The name of the set computed here; its figures compare with no published ones."""

CIFAR = "CIFAR-10-C"

BENCHMARK = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The corruptions that the benchmark averages (Hendrycks, Dietterich 2019). Its folder holds four
more, meant for choosing settings: speckle noise, Gaussian blur, spatter and saturation."""

SEVERITIES = 5
"""Of a CIFAR-10-C file, one after the other."""


@dataclass(frozen=True)
class Corruption:
    """Images changed in one way.

    Attributes:
        name: Such as `gaussian_noise`.
        severity: From 1.
        count: How many images there are.
        fetch: Takes the first and the last place (excluded); returns (B, C, H, W) uint8 and (B,).
    """

    name: str
    severity: int
    count: int
    fetch: Callable[[int, int], tuple[Tensor, Tensor]]


def gaussian_noise(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Adds normal noise of that standard deviation."""
    return images + level * torch.randn(images.shape, generator=generator)


def shot_noise(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Counts photons: Poisson with `level` of them at full brightness."""
    return torch.poisson(images * level, generator=generator) / level


def gaussian_blur(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Blurs with that standard deviation, in pixels."""
    with needs("data", "the corruption gaussian_blur"):
        from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, level, level), mode="nearest"))


def brightness(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Adds that much to every value."""
    return images + level


def contrast(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Draws every value towards its image's mean, to that share of its distance."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + level * (images - mean)


def pixelate(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Averages squares of that many pixels a side."""
    side, (height, width) = int(level), images.shape[2:]
    blocks = functional.avg_pool2d(images, side, ceil_mode=True)
    blown_up = blocks.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return blown_up[:, :, :height, :width]


def jpeg(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Compresses at that JPEG quality; channels one by one where there are not three."""
    pixels = _as_bytes(images)
    planes = pixels.permute(0, 2, 3, 1) if pixels.shape[1] == 3 else pixels.flatten(0, 1)
    coded = np.stack([_compressed(plane, int(level)) for plane in planes.numpy()])
    decoded = torch.from_numpy(coded)
    decoded = decoded.permute(0, 3, 1, 2) if pixels.shape[1] == 3 else decoded.view(pixels.shape)
    return decoded.float() / 255


OWN_SET: dict[str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.08, 0.16)),
    "shot_noise": (shot_noise, (200.0, 60.0, 20.0)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.7, 1.0)),
    "brightness": (brightness, (0.1, 0.2, 0.3)),
    "contrast": (contrast, (0.7, 0.5, 0.3)),
    "pixelate": (pixelate, (2, 3, 4)),
    "jpeg": (jpeg, (50.0, 25.0, 12.0)),
}
"""Each corruption computed here and its level at severity 1, 2 and 3."""


def own_corruptions(data: Images, seed: int = 0) -> list[Corruption]:
    """The set computed here, of the data's own images.

    Args:
        data: The clean images and their classes.
        seed: Of the noise.
    """
    return [
        Corruption(name, severity, len(data.targets), _corrupting(data, name, severity, seed))
        for name, (_, levels) in OWN_SET.items()
        for severity in range(1, len(levels) + 1)
    ]


def corrupt(images: Tensor, name: str, severity: int, generator: torch.Generator) -> Tensor:
    """Corrupts (B, C, H, W) uint8 images as the set computed here does.

    Args:
        images: Bytes.
        name: One of `OWN_SET`.
        severity: 1, 2 or 3.
        generator: Where noise comes from.

    Returns:
        The same shape, uint8.
    """
    function, levels = OWN_SET[name]
    return _as_bytes(function(images.float() / 255, levels[severity - 1], generator))


def averaged(names: Iterable[str]) -> list[str]:
    """Those of the names that the benchmark averages, or all where it knows none of them."""
    names = list(names)
    return [name for name in names if name in BENCHMARK] or names


def corruption_notes(corrupted: dict[str, Any]) -> list[str]:
    """What a reader must know of the mean over a CIFAR-10-C folder, in sentences."""
    notes, names = [], corrupted["averaged"]
    if corrupted["extra"]:
        notes.append(
            f"The mean under {corrupted['set']} leaves out {', '.join(corrupted['extra'])}, which"
            f" the benchmark's {len(BENCHMARK)} corruptions do not include."
        )
    if corrupted["set"] == CIFAR and set(names) != set(BENCHMARK):
        notes.append(
            f"The mean under {corrupted['set']} is over {len(names)} corruptions and compares with"
            f" no published one, which is over the benchmark's {len(BENCHMARK)}."
        )
    return notes


def cifar_corruptions(
    folder: str | Path, shape: tuple[int, ...], limit: int | None = None, seed: int = 0
) -> list[Corruption]:
    """The files of a CIFAR-10-C folder: NAME.npy of five severities, and labels.npy.

    Args:
        folder: Where they are.
        shape: (C, H, W) of the images that the model takes.
        limit: Only so many images of each severity, the same ones, drawn class by class.
        seed: Of the drawing.

    Raises:
        DataError: The folder holds none, or a file does not fit.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.glob("*.npy") if path.stem != "labels")
    if not files or not (folder / "labels.npy").is_file():
        raise DataError(
            f"{folder} holds no corruptions; give a CIFAR-10-C folder with labels.npy and a file"
            " such as gaussian_noise.npy."
        )
    labels = _labels(folder / "labels.npy")
    size = max(len(labels) // SEVERITIES, 1)
    chosen = stratified_order(labels[:size], seed)[:limit].sort().values
    return [found for path in files for found in _severities(path, labels, shape, chosen)]


def _severities(
    path: Path, labels: Tensor, shape: tuple[int, ...], chosen: Tensor
) -> list[Corruption]:
    images = _open(path)
    expected = (len(labels), *shape[1:], shape[0])
    if images.shape != expected or images.dtype != np.uint8 or len(labels) % SEVERITIES:
        raise DataError(
            f"{path} holds {images.dtype} of shape {images.shape}; give uint8 of shape {expected},"
            f" {SEVERITIES} severities one after the other."
        )
    size = len(labels) // SEVERITIES
    found = []
    for severity in range(1, SEVERITIES + 1):

        def fetch(
            first: int, last: int, start: int = size * (severity - 1)
        ) -> tuple[Tensor, Tensor]:
            places = start + chosen[first:last]
            pixels = torch.from_numpy(np.array(images[places.numpy()])).permute(0, 3, 1, 2)
            return pixels, labels[places]

        found.append(Corruption(path.stem, severity, len(chosen), fetch))
    return found


def _labels(path: Path) -> Tensor:
    """(N,) int64 classes."""
    found = _open(path)
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found < 0).any():
        raise DataError(
            f"{path} holds {found.dtype} of shape {found.shape}; give classes as whole numbers from"
            f" 0 up, one for each image of all {SEVERITIES} severities."
        )
    return torch.from_numpy(found.astype(np.int64))


def _open(path: Path) -> np.ndarray:
    try:
        return load_array(path, "r")
    except (OSError, MemoryError, ValueError) as error:
        raise DataError(f"{path} is no array ({error}); fetch it again.") from None


def _corrupting(
    data: Images, name: str, severity: int, seed: int
) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    def fetch(first: int, last: int) -> tuple[Tensor, Tensor]:
        # The same noise at every severity but for its size, whatever was computed before.
        number = random.Random(f"{seed} {name} {first}").getrandbits(63)
        generator = torch.Generator().manual_seed(number)
        images = corrupt(data.images[first:last].cpu(), name, severity, generator)
        return images, data.targets[first:last]

    return fetch


def _as_bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _compressed(plane: np.ndarray, quality: int) -> np.ndarray:
    with needs("data", "the corruption jpeg"):
        from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(plane).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer, formats=["JPEG"]))
