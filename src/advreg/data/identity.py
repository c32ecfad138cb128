"""Which known data set some data are, by what is in them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch

from advreg.data.arrays import is_arrays
from advreg.data.encoded import EncodedImages
from advreg.data.parquet import Columns, parquet_files, read_parquet
from advreg.data.sources import (
    HUB_PREFIX,
    NAMES,
    class_folders,
    find_place,
    has_parquet,
    is_image,
    train_folder,
    visible,
)

_DIGITS = "0,1,2,3,4,5,6,7,8,9"
_CLOTHES = "Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag"
_CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
_CIFAR100 = "aquarium_fish,lawn_mower,maple_tree,pickup_truck,sweet_pepper,willow_tree"

_KNOWN = {
    "digits": ((1, 8, 8), 10, _DIGITS),
    "mnist": ((1, 28, 28), 10, _DIGITS),
    "svhn": ((3, 32, 32), 10, _DIGITS),
    "fashion_mnist": ((1, 28, 28), 10, _CLOTHES),
    "cifar10": ((3, 32, 32), 10, _CIFAR10),
    "cifar100": ((3, 32, 32), 100, _CIFAR100),
}
"""Of each data set the images' shape, the number of classes, and names among them."""


def identify(source: str | Path, columns: Columns | None = None) -> str | None:
    """Which of the known data sets a source is.

    A folder is read just so far: its classes' names and its first image. What the folder is
    called plays no part.

    Args:
        source: As of `load_data`.
        columns: Of parquet files.

    Returns:
        One of `NAMES`, or None.

    Raises:
        DataError: There is no such source, or its first image cannot be read.
    """
    if source in NAMES:
        return str(source)
    if str(source).startswith(HUB_PREFIX):
        return None
    place = find_place(source)
    if is_arrays(place):
        return None
    if has_parquet(place):
        first = read_parquet(parquet_files(place, "train"), columns or Columns())
    else:
        first = _first_of_images(place)
    if not len(first):
        return None
    _, height, width = first.select(torch.tensor([0])).shape
    grey = first.subset(torch.tensor([0])).all_grey()
    found = (1 if grey else 3, height, width), len(first.classes)
    for known, (shape, count, names) in _KNOWN.items():
        if found == (shape, count) and set(names.split(",")) <= set(first.classes):
            return known
    return None


def _first_of_images(folder: Path) -> EncodedImages:
    classes = class_folders(folder)
    found = (
        path
        for label in classes
        for path in visible(train_folder(folder) / label)
        if is_image(path)
    )
    files = list(islice(found, 1))
    return EncodedImages(files, torch.zeros(len(files), dtype=torch.int64), classes, str(folder))
