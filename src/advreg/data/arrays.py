"""Images in NumPy's files: an .npz file, or a folder of .npy files that are mapped into memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advreg.data.images import ImageData, class_names
from advreg.data.mapped import register
from advreg.data.splits import hold_out
from advreg.errors import DataError
from advreg.files import load_array, load_arrays

SPLITS = {
    "train": (("images", "targets"), ("x_train", "y_train")),
    "test": (("test_images", "test_targets"), ("x_test", "y_test")),
    "validation": (("validation_images", "validation_targets"), ("x_val", "y_val")),
}
"""What the arrays of each split may be called, the second way being Keras's."""

Splits = tuple[ImageData, ImageData, ImageData | None]


def is_arrays(place: Path) -> bool:
    """Whether a file or a folder is one of NumPy's arrays."""
    return place.suffix == ".npz" if place.is_file() else (place / "images.npy").is_file()


def read_arrays(place: Path) -> Splits:
    """Reads `images` and `targets`, perhaps `test_images` and so on, and perhaps `classes`.

    Images are (N, H, W), (N, C, H, W) or (N, H, W, C), bytes or floats in [0, 1]; in a folder of
    .npy files bytes of shape (N, C, H, W) stay on the disk. Without test images a fixed fifth is
    for testing.

    Returns:
        Training, test and validation images, the last one None where there are none.

    Raises:
        DataError: A file is damaged, an array is missing or not as it should be.
    """
    try:
        arrays = load_arrays(place) if place.is_file() else _of_folder(place)
    except MemoryError as error:
        raise DataError(
            f"{place} is damaged, or needs more memory than there is; give a folder of .npy files,"
            " which stay on the disk."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{place} cannot be read; give files that numpy.save or numpy.savez wrote, without"
            " Python objects in them."
        ) from error
    classes = class_names(arrays["classes"], str(place)) if "classes" in arrays else None
    train = _split(place, arrays, "train", classes)
    if train is None:
        raise DataError(
            f"{place} holds the arrays {', '.join(arrays) or 'none'}; give images and targets."
        )
    test = _split(place, arrays, "test", train.classes)
    validation = _split(place, arrays, "validation", train.classes)
    if test is None and len(train) < 2:
        raise DataError(f"{place} holds one image, which cannot be split; give more.")
    if test is None:
        held, rest = hold_out(train.targets, max(len(train) // 5, 1), seed=0)
        train, test = train.select(rest), train.select(held)
    return train, test, validation


def _of_folder(folder: Path) -> dict[str, Any]:
    names = ["classes", *(name for ways in SPLITS.values() for way in ways for name in way)]
    paths = {name: folder / f"{name}.npy" for name in names}
    return {
        # Copied on writing, for torch wants memory that can be written to.
        name: load_array(path, None if name == "classes" else "c")
        for name, path in paths.items()
        if path.is_file()
    }


def _split(place: Path, arrays: Mapping[str, Any], split: str, classes: Any) -> ImageData | None:
    for images, targets in SPLITS[split]:
        if (images in arrays) != (targets in arrays):
            there, missing = (images, targets) if images in arrays else (targets, images)
            neither = "" if split == "train" else ", or neither"
            raise DataError(
                f"{place} holds {there} without {missing}; give {images} and {targets}{neither}."
            )
    for images, targets in SPLITS[split]:
        if images in arrays and targets in arrays:
            found = arrays[images]
            if found.ndim == 4 and found.shape[1] > 4 >= found.shape[3]:
                found = found.transpose(0, 3, 1, 2)
            labels = np.asarray(arrays[targets])
            labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
            if labels.shape != found.shape[:1]:
                raise DataError(
                    f"{place}: {images} has the shape {found.shape} and {targets} {labels.shape};"
                    " give one label for each image."
                )
            data = ImageData.from_arrays(found, labels, classes)
            if mapping := getattr(found, "_mmap", None):
                register(data.images, mapping)
            return data
    return None
