"""Where images come from: scikit-learn, the hub, parquet files, image folders, arrays."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from advreg.data.arrays import is_arrays, read_arrays
from advreg.data.encoded import EncodedImages
from advreg.data.images import ImageData
from advreg.data.parquet import Columns, parquet_files, read_parquet
from advreg.data.splits import hold_out, stratified_order
from advreg.decoding import SUFFIXES
from advreg.errors import DataError, SkippedFilesWarning
from advreg.extras import needs

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

HUB_PREFIX = "hub:"
"""What stands before any other repository of the hub."""

WANTED = (
    "a folder of train-*.parquet files, of <class>/ or train/<class>/ images, or of images.npy and"
    " targets.npy; an .npz file of these arrays; or hub:OWNER/NAME"
)
"""What may be given for data, in words."""


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


def read_source(
    source: str | Path, download: bool = False, columns: Columns | None = None
) -> Source:
    """Finds a data set by name, folder or file.

    Raises:
        DataError: There is none, it is damaged or may not be read, or it would have to be
            downloaded.
    """
    try:
        return _read_source(source, download, columns)
    except OSError as error:
        raise DataError(
            f"{error.filename or source} cannot be read ({error.strerror or error}); allow reading"
            " it, or give other data."
        ) from error


def _read_source(source: str | Path, download: bool, columns: Columns | None) -> Source:
    columns = columns or Columns()
    if source == "digits":
        refuse_columns(columns, "digits")
        return digits()
    if source in HUB:
        return hub(str(source), *HUB[str(source)], download, columns)
    if str(source).startswith(HUB_PREFIX):
        return hub_repository(str(source).removeprefix(HUB_PREFIX), download, columns)
    place = find_place(source)
    name = place.resolve().stem if place.is_file() else place.resolve().name
    if not is_arrays(place) and has_parquet(place):
        return parquet_folder(place, name, columns)
    refuse_columns(columns, name)
    return Source(*read_arrays(place), name) if is_arrays(place) else image_folder(place, name)


def refuse_columns(columns: Columns, name: str) -> None:
    """Refuses the names of columns for data that have none.

    Raises:
        DataError: One is given.
    """
    given = columns.image or columns.label
    if given:
        raise DataError(
            f"The column {given!r} is named and {name} is not in parquet files; leave it out."
        )


def find_place(source: str | Path) -> Path:
    """The folder of parquet files, of images or of arrays, or the file of arrays, that is meant.

    Raises:
        DataError: There is none, or it holds none of them.
    """
    place = Path(source).expanduser()
    try:
        found = place.exists()
    except OSError:  # a name that is too long for one
        found = False
    if not found:
        shown = str(source) if len(str(source)) < 200 else f"{str(source)[:200]}..."
        raise DataError(
            f"There is no data set, folder or file {shown!r}; choose one of {', '.join(NAMES)}, or"
            f" give {WANTED}."
        )
    if not (is_arrays(place) or (place.is_dir() and (has_parquet(place) or class_folders(place)))):
        raise DataError(f"{place} holds no images that can be read; give {WANTED}.")
    return place


def has_parquet(folder: Path) -> bool:
    """Whether it holds parquet files, which win over images."""
    return bool(parquet_files(folder, "train"))


def digits() -> Source:
    """The 1,797 8x8 digits embedded in scikit-learn; a fixed half, 899 images, is for testing."""
    with needs("data", "the data set digits"):
        from sklearn.datasets import load_digits

    found = load_digits()
    data = ImageData.from_arrays(found.images / 16.0, found.target)
    test, train = hold_out(data.targets, 899, seed=0)
    return Source(data.select(train), data.select(test), None, "digits")


def hub(name: str, repository: str, subfolder: str, download: bool, columns: Columns) -> Source:
    """A data set of the Hugging Face hub, from this machine's cache of it.

    Args:
        name: What it is called here.
        repository: Its owner and name on the hub.
        subfolder: Of its parquet files; empty for a repository that has `train-*.parquet` at its
            top or in `data/`.
        download: Whether what the cache lacks may be downloaded.
        columns: Which hold images and labels.

    Raises:
        DataError: It is not in the cache, and was not to be or could not be downloaded.
    """
    # The hub's own client: datasets.load_dataset asks the network even for what is cached.
    with needs("data", "a data set of the hub"):
        from huggingface_hub import snapshot_download

    if subfolder:
        wanted = [f"{subfolder}/{split}-*" for split in ("train", "test")]
    else:
        wanted = [f"{split}-*.parquet" for split in ("train", "test", "validation")]
        wanted += [f"data/{pattern}" for pattern in wanted]
    try:
        snapshot = snapshot_download(
            repository,
            repo_type="dataset",
            allow_patterns=wanted,
            local_files_only=not download,
        )
        folder = Path(snapshot) / subfolder
    except Exception as error:  # the hub's HTTP clients share no class of errors
        if download:
            raise DataError(
                f"{name} cannot be downloaded from {repository} ({type(error).__name__}); check its"
                " name and the network, or give a folder with its train-*.parquet files."
            ) from error
        folder = None
    needed = ("train", "test") if subfolder else ("train",)
    if folder is None or not all(parquet_files(folder, split) for split in needed):
        raise DataError(
            f"{name} is not on this machine; add --data.download true to download {repository} from"
            " the Hugging Face hub, or give a folder with its train-*.parquet and test-*.parquet."
        )
    return parquet_folder(folder, name, columns)


def hub_repository(repository: str, download: bool, columns: Columns) -> Source:
    """Any repository of the hub that holds images in parquet files.

    Raises:
        DataError: Its name is none, or as `hub`.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or ".." in repository:
        raise DataError(f"{repository!r} is no repository; write hub:OWNER/NAME.")
    return hub(repository.split("/")[1], repository, "", download, columns)


def parquet_folder(folder: Path, name: str, columns: Columns) -> Source:
    """Files `train-*.parquet`, and perhaps `test-*.parquet` and `validation-*.parquet`.

    They lie in the folder or in its `data/`. Without test files a fixed fifth of the
    training images is for testing.

    Raises:
        DataError: A file is missing or damaged, or a column is not as it should be.
    """
    train = read_parquet(parquet_files(folder, "train"), columns)

    def other(split: str) -> EncodedImages | None:
        files = parquet_files(folder, split)
        return read_parquet(files, columns, train.classes) if files else None

    return _source(name, train, other("test"), other("validation"))


def image_folder(folder: Path, name: str) -> Source:
    """Images `train/<class>/*.png` (or jpg, bmp, webp), perhaps `test/` and `validation/` likewise.

    Or `<class>/*.png` alone. Classes are numbered in alphabetical order. Without `test/` a fixed
    fifth of the images is for testing.

    Raises:
        DataError: There are no images, or a class is empty or not among the training ones.

    Warns:
        SkippedFilesWarning: A class's folder holds something else beside its images.
    """
    classes = class_folders(folder)
    train = _read_images(train_folder(folder), classes)
    empty = [label for number, label in enumerate(classes) if not (train.targets == number).any()]
    if empty:
        raise DataError(
            f"{train_folder(folder) / empty[0]} holds no images; add some, or remove the folder."
        )

    def other(split: str) -> EncodedImages | None:
        found = (folder / "train").is_dir() and (folder / split).is_dir()
        return _read_images(folder / split, classes) if found else None

    return _source(name, train, other("test"), other("validation"))


def train_folder(folder: Path) -> Path:
    """Where the classes of an image folder are: in its `train/`, or in itself."""
    return folder / "train" if (folder / "train").is_dir() else folder


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of an image folder's classes, in alphabetical order."""
    found = visible(train_folder(folder))
    for path in found:
        if path.is_symlink() and not path.exists():  # what a class's images are behind, perhaps
            raise DataError(f"{path} is a link to nothing; mend or remove it.")
    return tuple(path.name for path in found if path.is_dir())


def _source(
    name: str,
    train: EncodedImages,
    test: EncodedImages | None,
    validation: EncodedImages | None,
) -> Source:
    if test is None:
        held, rest = hold_out(train.targets, max(len(train) // 5, 1), seed=0)
        train, test = train.subset(rest), train.subset(held)
    # Decided by all images, so that neither split nor limit makes a grey source a coloured one.
    parts = [part for part in (train, test, validation) if part is not None]
    channels = 1 if all(part.all_grey() for part in parts) else 3
    train = replace(train, channels=channels)
    test = _mixed(replace(test, channels=channels))
    if validation is not None:
        validation = _mixed(replace(validation, channels=channels))
    return Source(train, test, validation, name)


def _mixed(images: EncodedImages) -> EncodedImages:
    """The images, reordered if they lie class by class: the first ones stand for all then."""
    in_order = bool((images.targets.diff() >= 0).all())
    return images.subset(stratified_order(images.targets, seed=0)) if in_order else images


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name; hidden files left out."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def is_image(path: Path) -> bool:
    """Whether a file is one that an image folder is read from."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _read_images(folder: Path, classes: tuple[str, ...]) -> EncodedImages:
    files, labels, skipped = [], [], []
    for inside in filter(Path.is_dir, visible(folder)):
        if inside.name not in classes:
            raise DataError(
                f"{inside} is a class without training images; add them to train/, or remove it."
            )
        found = visible(inside)
        images = [path for path in found if is_image(path)]
        files += images
        labels += [classes.index(inside.name)] * len(images)
        skipped += [path for path in found if not is_image(path)]
    if not files:
        raise DataError(f"{folder} holds no images; put them into {folder}/<class>/*.png.")
    if skipped:
        warnings.warn(
            f"{folder} holds, beside {len(files)} images, what is not used ({len(skipped)} in"
            f" all), such as {skipped[0]}; images are files named {', '.join(SUFFIXES)}.",
            SkippedFilesWarning,
            stacklevel=2,
        )
    return EncodedImages(files, torch.tensor(labels), classes, str(folder))
