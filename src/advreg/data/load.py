"""From the name of a data set to its three splits in memory."""

from __future__ import annotations

from pathlib import Path

import torch

from advreg.data.images import DataSplits
from advreg.data.parquet import Columns
from advreg.data.sources import read_source
from advreg.data.splits import hold_out, limited, validation_count
from advreg.units import Number


def load_data(
    source: str | Path,
    *,
    limit: int | None = None,
    validation: Number = 0.1,
    seed: int = 0,
    download: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
) -> DataSplits:
    """Reads a data set and decodes what will be used of it.

    Test images never depend on seed, limit or validation. A validation split is taken from the
    training images first, then `limit` of the others are kept; each class in proportion.

    Args:
        source: `digits`, `cifar10`, `cifar100`, `mnist`, `fashion_mnist`, `svhn`; a folder of
            `train-*.parquet` and `test-*.parquet`, of `train/<class>/*.png` or `<class>/*.png`, or
            of `images.npy` and `targets.npy`; an `.npz` file of such arrays; or
            `hub:OWNER/NAME`, any repository of the hub with images in parquet files.
        limit: Number of training images to keep; all by default.
        validation: A share below 1 of the training images (at most 5,000 images), or their
            number; unused where the source has a validation split of its own.
        seed: Decides which images are for validation and which are kept.
        download: Whether what is not on this machine may be fetched from the Hugging Face hub.
        image_column: Of parquet files; `img` or `image` by default.
        label_column: Likewise; `label` or `fine_label` by default.

    Raises:
        DataError: The data are missing, damaged or too few; the message says what to do.
        ConfigurationError: `validation` or `seed` is no such number.
    """
    found = read_source(source, download, Columns(image_column, label_column))
    own = found.validation
    held = torch.arange(len(own) if own else 0)
    rest = torch.arange(len(found.train))
    if own is None:
        count = validation_count(validation, len(found.train))
        held, rest = hold_out(found.train.targets, count, seed)
    chosen = limited(rest, found.train.targets, limit, seed)
    return DataSplits(
        train=found.train.select(chosen),
        validation=(own or found.train).select(held),
        test=found.test.select(torch.arange(len(found.test))),
        name=found.name,
    )
