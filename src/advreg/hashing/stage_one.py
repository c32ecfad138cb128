"""Stage one for a split: a generator of its training images alone, and the check that it is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch

from advreg.data import ImageData
from advreg.errors import StateError
from advreg.hashing.data import HashImages
from advreg.hashing.generator import (
    FeatureNetwork,
    GeneratorFolder,
    GeneratorResult,
    GeneratorSettings,
    train_features,
    train_generator,
)
from advreg.hashing.splits import HashSplit, fingerprint


def train_for_split(
    images: HashImages,
    split: HashSplit,
    settings: GeneratorSettings,
    out: str | os.PathLike[str],
    *,
    pool: int,
    resume: bool,
    device: torch.device | str,
    report: Callable[[int, str | None], object],
) -> GeneratorResult:
    """Trains a generator on a split's training images; arguments as of `train_generator`.

    Its folder says which images they were, and own-FID and own-KID are measured where they have
    classes.

    Raises:
        AdvregError: As of `train_generator`.
    """
    facts = {
        "data": images.name,
        "split": split.name,
        "train_images": train_fingerprint(split),
    }
    return train_generator(
        images.images[split.train],
        settings,
        out,
        pool=pool,
        facts=facts,
        resume=resume,
        device=device,
        features=partial(_features, images, split),
        report=report,
    )


def check_generator(folder: GeneratorFolder, split: HashSplit) -> None:
    """Refuses generated images that were made from other images than a split's training images.

    Raises:
        StateError: They were; a query or a database image may be among them.
    """
    made_from = folder.settings().get("train_images")
    if made_from != train_fingerprint(split):
        raise StateError(
            f"The generator in {folder.path} was trained on other images than the training images"
            f" of the split {split.name!r}; generate again with the same --data options."
        )


def _features(images: HashImages, split: HashSplit) -> FeatureNetwork | None:
    """What a generator's images are measured by: a small classifier of the training images.

    None where images have labels instead of a class.
    """
    targets = images.targets[split.train]
    if targets.ndim == 2:
        return None
    return train_features(ImageData(images.images[split.train], targets, images.classes))


def train_fingerprint(split: HashSplit) -> str:
    """What a generator's folder says of the images that it was trained on."""
    return fingerprint(split.train) + split.fingerprint
