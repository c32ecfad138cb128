"""Indexes of faiss, an extra, for collections too large to compare with one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from advreg.errors import RunError
from advreg.extras import require

LISTS_AT_MOST = 4096
PROBED = 8
"""Inverted lists that a query searches."""

LINKS = 32
"""Of each code in the graph."""


def library() -> Any:
    """The faiss module.

    Raises:
        MissingExtraError: It is not installed.
    """
    return require("faiss", extra="faiss", what="this index (the index exact does not)")


def build(kind: str, codes: np.ndarray) -> Any:
    """An index of packed codes.

    Args:
        kind: "flat" compares with every code; "ivf" searches 8 of about sqrt(N) lists of near
            codes; "hnsw" follows a graph, which is not the same from one building to the next.
        codes: (N, q / 8) uint8.

    Raises:
        MissingExtraError: faiss is not installed.
    """
    faiss, bits = library(), 8 * codes.shape[1]
    codes = np.ascontiguousarray(codes)
    if kind == "flat":
        index = faiss.IndexBinaryFlat(bits)
    elif kind == "ivf":
        lists = min(max(round(math.sqrt(len(codes)) / 2), 1), LISTS_AT_MOST)
        index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, lists)
        index.cp.min_points_per_centroid = 1  # a small collection is not worth a warning
        index.nprobe = PROBED
        index.train(codes)
    else:
        index = faiss.IndexBinaryHNSW(bits, LINKS)
    index.add(codes)
    return index


def search(index: Any, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The places and distances of about the k nearest codes, (Q, k) int64; place -1 is none."""
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = max(k, 2 * LINKS)
    distances, places = index.search(np.ascontiguousarray(queries), k)
    return places.astype(np.int64), distances.astype(np.int64)


def write(index: Any, path: Path) -> None:
    """Writes an index to a file."""
    library().write_index_binary(index, str(path))


def read(path: Path) -> Any:
    """Reads an index from a file.

    Raises:
        RunError: It is missing or damaged.
        MissingExtraError: faiss is not installed.
    """
    faiss = library()
    try:
        return faiss.read_index_binary(str(path))
    except RuntimeError as error:
        raise RunError(
            f"{path} is missing or damaged; make the index again with advreg hash index."
        ) from error
