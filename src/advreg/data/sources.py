"""Where images come from: scikit-learn, the Hugging Face hub, parquet files, image folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from advreg.data.encoded import EncodedImages
from advreg.data.images import ImageData
from advreg.data.parquet import parquet_files, read_parquet
from advreg.data.splits import hold_out
from advreg.errors import DataError

HUB = {
    "cifar10": ("uoft-cs/cifar10", "plain_text"),
    "cifar100": ("uoft-cs/cifar100", "cifar100"),
    "mnist": ("ylecun/mnist", "mnist"),
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "fashion_mnist"),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits"),
}
"""Each data set's repository on the hub and the folder of its parquet files there."""

NAMES = ("digits", *HUB)
"""The data sets known by name."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Source:
    """What a source holds; images stay undecoded where that saves work.

    Attributes:
        train: All training images.
        test: The images to report on.
        validation: The source's own validation images; None where it has none.
        name: The data set's name, or its folder's.
    """

    train: ImageData | EncodedImages
    test: ImageData | EncodedImages
    validation: ImageData | EncodedImages | None
    name: str


def read_source(source: str | Path, download: bool) -> Source:
    """Finds a data set by name or folder.

    Raises:
        DataError: There is none, it is damaged, or it would have to be downloaded.
    """
    if source == "digits":
        return digits()
    if source in HUB:
        return hub(str(source), download)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"There is no data set or folder {str(source)!r}; choose one of {', '.join(NAMES)}, or"
            " give a folder of train-*.parquet files or of train/<class>/ images."
        )
    name = folder.resolve().name
    if parquet_files(folder, "train"):
        return parquet_folder(folder, name)
    if (folder / "train").is_dir():
        return image_folder(folder, name)
    raise DataError(
        f"The folder {folder} holds neither train-*.parquet files nor train/<class>/ images;"
        " give one that does."
    )


def digits() -> Source:
    """The 1,797 8x8 digits embedded in scikit-learn; a fixed half, 899 images, is for testing."""
    from sklearn.datasets import load_digits

    found = load_digits()
    data = ImageData.from_arrays(found.images / 16.0, found.target)
    test, train = hold_out(data.targets, 899, seed=0)
    return Source(data.select(train), data.select(test), None, "digits")


def hub(name: str, download: bool) -> Source:
    """A data set of the Hugging Face hub, from this machine's cache of it.

    Args:
        name: One of `HUB`.
        download: Whether what the cache lacks may be downloaded.

    Raises:
        DataError: It is not in the cache, and was not to be or could not be downloaded.
    """
    # The hub's own client: datasets.load_dataset asks the network even for what is cached.
    from huggingface_hub import snapshot_download

    repository, place = HUB[name]
    try:
        snapshot = snapshot_download(
            repository,
            repo_type="dataset",
            allow_patterns=[f"{place}/train-*", f"{place}/test-*"],
            local_files_only=not download,
        )
        folder = Path(snapshot) / place
    except Exception as error:  # the hub's HTTP clients share no class of errors
        if download:
            raise DataError(
                f"{name} cannot be downloaded from {repository} ({type(error).__name__}); check the"
                " network, or give a folder with its train-*.parquet and test-*.parquet."
            ) from error
        folder = None
    if folder is None or not all(parquet_files(folder, split) for split in ("train", "test")):
        raise DataError(
            f"{name} is not on this machine; add --data.download true to download {repository} from"
            " the Hugging Face hub, or give a folder with its train-*.parquet and test-*.parquet."
        )
    return parquet_folder(folder, name)


def parquet_folder(folder: Path, name: str) -> Source:
    """Files `train-*.parquet`, and perhaps `test-*.parquet` and `validation-*.parquet`.

    They lie in the folder or in its `data/`; columns `img` or `image` (image files) and `label`
    or `fine_label`. Without test files a fixed fifth of the training images is for testing.

    Raises:
        DataError: A file is missing or damaged, or a column is not as it should be.
    """
    train = read_parquet(parquet_files(folder, "train"))

    def other(split: str) -> EncodedImages | None:
        files = parquet_files(folder, split)
        return read_parquet(files, train.classes) if files else None

    return _source(name, train, other("test"), other("validation"))


def image_folder(folder: Path, name: str) -> Source:
    """Images `train/<class>/*.png` (or jpg, bmp), and perhaps `test/` and `validation/` likewise.

    Classes are numbered in alphabetical order. Without `test/` a fixed fifth of the training
    images is for testing.

    Raises:
        DataError: There are no images, or a class is empty or not among the training ones.
    """
    classes = tuple(path.name for path in _visible(folder / "train") if path.is_dir())
    train = _read_images(folder / "train", classes)
    empty = [label for number, label in enumerate(classes) if not (train.targets == number).any()]
    if empty:
        raise DataError(
            f"{folder / 'train' / empty[0]} holds no images; add some, or remove the folder."
        )

    def other(split: str) -> EncodedImages | None:
        place = folder / split
        return _read_images(place, classes) if place.is_dir() else None

    return _source(name, train, other("test"), other("validation"))


def _source(
    name: str,
    train: EncodedImages,
    test: EncodedImages | None,
    validation: EncodedImages | None,
) -> Source:
    if test is None:
        held, rest = hold_out(train.targets, max(len(train) // 5, 1), seed=0)
        train, test = train.subset(rest), train.subset(held)
    return Source(train, test, validation, name)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read_images(folder: Path, classes: tuple[str, ...]) -> EncodedImages:
    files, labels = [], []
    for place in filter(Path.is_dir, _visible(folder)):
        if place.name not in classes:
            raise DataError(
                f"{place} is a class without training images; add them to train/, or remove it."
            )
        images = [path for path in _visible(place) if path.suffix.lower() in _SUFFIXES]
        files += images
        labels += [classes.index(place.name)] * len(images)
    if not files:
        raise DataError(f"{folder} holds no images; put them into {folder}/<class>/*.png.")
    return EncodedImages(files, torch.tensor(labels), classes, str(folder))
