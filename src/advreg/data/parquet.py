"""Labelled images in parquet files, in the form of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advreg.data.encoded import EncodedImages
from advreg.errors import DataError
from advreg.extras import needs

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "fine_label")


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The files of one split, in the folder or in its `data/`; none where there are none.

    Raises:
        DataError: By their names (`-00000-of-00003`), some are missing.
    """
    pattern = f"{split}-*.parquet"
    files = sorted(folder.glob(pattern)) or sorted(folder.glob(f"data/{pattern}"))
    shards = re.search(r"-of-(\d+)\.parquet$", files[0].name) if files else None
    if shards and int(shards[1]) != len(files):
        raise DataError(
            f"{files[0].parent} has {len(files)} of {int(shards[1])} files {pattern}; add the rest."
        )
    return files


def read_parquet(
    files: list[Path], classes: tuple[str, ...] | None = None, *, first_rows: bool = False
) -> EncodedImages:
    """Reads the files of one split.

    Args:
        files: At least one.
        classes: The classes' names; by default as the first file states them, else the numbers.
        first_rows: Read no more than the first file's first group of rows.

    Raises:
        DataError: A file is damaged, or a column is missing or not as it should be.
    """
    with needs("data", "reading parquet files"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(files[0])
        image = _column(schema.names, _IMAGE_COLUMNS, files[0])
        label = _column(schema.names, _LABEL_COLUMNS, files[0])
        if first_rows and (first := pq.ParquetFile(files[0])).num_row_groups:
            table = first.read_row_group(0, columns=[image, label])
        else:
            table = pq.read_table(files, columns=[image, label])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{files[0]} or one beside it cannot be read as parquet; fetch it again."
        ) from error
    encoded = table[image].combine_chunks()
    if pa.types.is_struct(encoded.type) and encoded.type.get_field_index("bytes") >= 0:
        encoded = encoded.field("bytes")
    if not (pa.types.is_binary(encoded.type) or pa.types.is_large_binary(encoded.type)):
        raise DataError(
            f"The column {image!r} of {files[0]} is {encoded.type}; give image files as bytes."
        )
    labels = table[label]
    if not pa.types.is_integer(labels.type) or labels.null_count:
        raise DataError(
            f"The column {label!r} of {files[0]} holds {labels.type} values with"
            f" {labels.null_count} missing; give every image the number of its class."
        )
    targets = torch.tensor(labels.to_numpy(), dtype=torch.int64)
    classes = classes or _class_names(schema, label, targets)
    return EncodedImages(encoded.to_pylist(), targets, classes, str(files[0]))


def _column(names: list[str], known: tuple[str, ...], file: Path) -> str:
    for name in known:
        if name in names:
            return name
    raise DataError(
        f"{file} has the columns {', '.join(names)}; rename one to {' or '.join(known)}."
    )


def _class_names(schema: Any, label: str, targets: Tensor) -> tuple[str, ...]:
    """As the hub's data sets note them beside the columns, or the numbers."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])
        names = noted["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        names = None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    highest = int(targets.max()) if len(targets) else -1
    return tuple(map(str, range(highest + 1)))
