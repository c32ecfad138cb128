"""All images of a source under one numbering, from which splits are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advreg.data import ImageData
from advreg.data.images import as_tensor, class_names
from advreg.data.sources import read_source
from advreg.errors import ConfigurationError, DataError
from advreg.files import load_arrays
from advreg.hashing.splits import PROTOCOLS, HashSplit, Protocol, Rule, draw_split


@dataclass(frozen=True, eq=False)
class HashImages:
    """Images with a class or several labels each; an image's id is its place here.

    Attributes:
        images: (I, C, H, W) uint8, training images before test images.
        targets: (I,) int64 classes, or (I, K) int64 labels that are 0 or 1.
        classes: The classes' or labels' names.
        test: How many of the last images are the source's own test images.
        name: The data set's name, or its folder's or file's.
    """

    images: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    test: int
    name: str

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def from_arrays(
        cls,
        images: Tensor | np.ndarray,
        targets: Tensor | np.ndarray,
        classes: Sequence[str] | None = None,
        test: int = 0,
        name: str = "arrays",
    ) -> HashImages:
        """Takes images from arrays.

        Args:
            images: (I, H, W) or (I, C, H, W); bytes, or floats in [0, 1].
            targets: (I,) whole numbers, or (I, K) labels that are 0 or 1.
            classes: Names; numbers by default.
            test: How many of the last images are for testing.
            name: Of the data.

        Raises:
            DataError: Pixels or targets are out of range, or do not fit together.
        """
        mend = "give each image its class's number, or its labels as numbers that are 0 or 1"
        labels = as_tensor(targets, "Labels", mend)
        if labels.ndim == 2:
            pixels = ImageData.from_arrays(images, torch.zeros(len(labels)), ["image"]).images
            if not ((labels == 0) | (labels == 1)).all():
                raise DataError(
                    f"Labels have shape {tuple(labels.shape)} and other values than 0 and 1; give"
                    " (I, K) numbers that are 0 or 1, a row for each image."
                )
            given = range(labels.shape[1]) if classes is None else classes
            names = class_names(given)
            if len(names) != labels.shape[1]:
                raise DataError(
                    f"There are {len(names)} names of {labels.shape[1]} labels; give each a name."
                )
            return cls(pixels, labels.to(torch.int64), names, test, name)
        data = ImageData.from_arrays(images, labels, classes)
        return cls(data.images, data.targets, data.classes, test, name)


def load_images(source: str | Path, download: bool = False) -> HashImages:
    """Reads all images of a source, training images first.

    Args:
        source: `digits`, `cifar10` and so on, a folder, as for `advreg.data.load_data`; or an
            `.npz` file with arrays `images` and `targets`, of which `targets` may be (I, K) labels,
            and perhaps `classes` (names) and `test` (a number of last images).
        download: Whether what is not on this machine may be downloaded.

    Raises:
        DataError: The data are missing or damaged; the message says what to do.
    """
    if str(source).endswith(".npz"):
        return _from_file(Path(source).expanduser())
    found = read_source(source, download)
    parts = [
        part.select(torch.arange(len(part)))
        for part in (found.train, found.validation, found.test)
        if part is not None
    ]
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        raise DataError(f"{found.name}: its images have several shapes {sorted(shapes)}; use one.")
    return HashImages(
        torch.cat([part.images for part in parts]),
        torch.cat([part.targets for part in parts]),
        parts[0].classes,
        len(found.test),
        found.name,
    )


def _from_file(path: Path) -> HashImages:
    try:
        arrays = load_arrays(path)
    except MemoryError as error:
        raise DataError(f"{path} needs more memory than there is; give fewer images.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read; give a file that numpy.savez wrote.") from error
    if not {"images", "targets"} <= set(arrays):
        raise DataError(f"{path} holds {', '.join(arrays)}; give arrays images and targets.")
    classes = class_names(arrays["classes"], str(path)) if "classes" in arrays else None
    test = arrays.get("test", np.array(0))
    most = max((1, *arrays["targets"].shape[:1]))
    if test.shape or test.dtype.kind not in "iu" or not 0 <= test < most:
        raise DataError(
            f"{path}: test is {test}; give a number of the last images, or leave it out."
        )
    return HashImages.from_arrays(
        arrays["images"], arrays["targets"], classes, int(test), path.stem
    )


def split_images(
    data: HashImages,
    name: str | None = None,
    *,
    query: int | None = None,
    train: int | None = None,
    seed: int = 0,
) -> HashSplit:
    """Draws a split of a source's images.

    Args:
        data: All images.
        name: One of `PROTOCOLS`, or a rule: disjoint, inside, own; None is the data set's own
            protocol where there is one, else disjoint.
        query: Query images a class; None is the protocol's.
        train: Training images a class; None is the protocol's.
        seed: Decides which images.

    Raises:
        ConfigurationError: There is no such split, or it is another data set's.
        DataError: A class has too few images.
    """
    name = name or (data.name if data.name in PROTOCOLS else "disjoint")
    rules: tuple[Rule, ...] = ("disjoint", "inside", "own")
    if name in PROTOCOLS:
        protocol, owner = PROTOCOLS[name], name.split("-")[0]
        if data.name != owner:
            raise ConfigurationError(
                f"The split {name!r} is of {owner} and the data are {data.name}; choose one of"
                f" {', '.join(rules)}."
            )
    elif name in rules:
        protocol = Protocol(name)
    else:
        raise ConfigurationError(
            f"No split is called {name!r}; choose one of {', '.join((*PROTOCOLS, *rules))}."
        )
    protocol = replace(
        protocol,
        query=protocol.query if query is None else query,
        train=protocol.train if train is None else train,
    )
    return draw_split(name, data.targets, protocol, test=data.test, seed=seed)
