"""Labelled images in parquet files, in the form of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from advreg.data.encoded import EncodedImages
from advreg.data.images import numbered_classes
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


@dataclass(frozen=True)
class Columns:
    """The columns of images and of labels, where they have not the usual names.

    Args:
        image: Of image files; None is `img` or `image`.
        label: Of whole numbers; None is `label` or `fine_label`.
    """

    image: str | None = None
    label: str | None = None


class ParquetImages(Sequence[bytes]):
    """The image files in a column of parquet files, read a group of rows at a time.

    Args:
        files: In order.
        column: Holds the contents of image files, or structures of `bytes`.
    """

    def __init__(self, files: list[Path], column: str) -> None:
        with needs("data", "reading parquet files"):
            import pyarrow.parquet as pq

        self.paths = files
        self.files = [pq.ParquetFile(file, memory_map=True) for file in files]
        self.column = column
        self._groups = [(file, i) for file in self.files for i in range(file.num_row_groups)]
        rows = [file.metadata.row_group(i).num_rows for file, i in self._groups]
        self._ends = list(accumulate(rows))
        self._lock = Lock()
        self._group = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: Any) -> Any:
        number = bisect_right(self._ends, place)
        with self._lock:  # a reader of parquet serves one thread
            group = self._group(number)
        return group[place - self._ends[number]].as_py()  # counted from the group's end

    def _read(self, number: int) -> Any:
        with needs("data", "reading parquet files"):
            import pyarrow as pa

        file, index = self._groups[number]
        try:
            found = file.read_row_group(index, columns=[self.column])[self.column]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            place = self.files.index(file)
            raise _unreadable(self.paths[place]) from error
        found = found.combine_chunks()
        return found.field("bytes") if found.type.num_fields else found


def read_parquet(
    files: list[Path], columns: Columns, classes: tuple[str, ...] | None = None
) -> EncodedImages:
    """Reads the labels of one split; its images are read as they are decoded.

    Args:
        files: At least one.
        columns: Which hold what.
        classes: The classes' names; by default as the first file states them, else the numbers.

    Raises:
        DataError: A file is damaged, or a column is missing or not as it should be.
    """
    with needs("data", "reading parquet files"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(files[0])
        image = _column(schema.names, columns.image, _IMAGE_COLUMNS, files[0])
        label = _column(schema.names, columns.label, _LABEL_COLUMNS, files[0])
        labels = pq.read_table(files, columns=[label])[label]
        images = ParquetImages(files, image)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(files[0]) from error
    encoded = schema.field(image).type
    if pa.types.is_struct(encoded) and encoded.get_field_index("bytes") >= 0:
        encoded = encoded.field("bytes").type
    if not (pa.types.is_binary(encoded) or pa.types.is_large_binary(encoded)):
        raise DataError(
            f"The column {image!r} of {files[0]} is {encoded}; give image files as bytes."
        )
    if not pa.types.is_integer(labels.type) or labels.null_count:
        raise DataError(
            f"The column {label!r} of {files[0]} holds {labels.type} values with"
            f" {labels.null_count} missing; give every image the number of its class."
        )
    targets = torch.from_numpy(labels.to_numpy().astype("int64"))  # what is higher turns negative
    classes = classes or _class_names(schema, label, targets)
    return EncodedImages(images, targets, classes, str(files[0]))


def _unreadable(file: Path) -> DataError:
    return DataError(f"{file} or one beside it cannot be read as parquet; fetch it again.")


def _column(names: list[str], chosen: str | None, usual: tuple[str, ...], file: Path) -> str:
    for name in usual if chosen is None else (chosen,):
        if name in names:
            return name
    option = "image_column" if usual == _IMAGE_COLUMNS else "label_column"
    raise DataError(
        f"{file} has the columns {', '.join(names)} and no {chosen or ' or '.join(usual)}; name"
        f" the right one with --data.{option}."
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
    return numbered_classes(targets, f"The column {label!r}")
