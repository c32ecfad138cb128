"""Exact search of packed codes by Hamming distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advreg.errors import ConfigurationError, DataError
from advreg.hashing.distances import as_words, distances_to


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The nearest codes of each query, near to far; equal distances in the database's order.

    Attributes:
        places: (Q, k) int64, rows of the database; -1 where an approximate index found no more.
        distances: (Q, k) int64, in bits; -1 likewise.
        exact: Whether no nearer code can have been passed over.
    """

    places: np.ndarray
    distances: np.ndarray
    exact: bool


def check_count(k: int, size: int) -> int:
    """The number of codes to find, at most all.

    Raises:
        ConfigurationError: It is under one.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ConfigurationError(f"k is {k!r}; give a whole number of at least 1.")
    return min(k, size)


def nearest(queries: np.ndarray, database: np.ndarray, k: int, chunk: int = 2**20) -> SearchResult:
    """The k nearest codes, found by comparing with all; memory grows with `chunk`, not with N.

    Args:
        queries: (Q, q / 8) uint8.
        database: (N, q / 8) uint8, which may be a memory-mapped file.
        k: Codes for each query; all where there are fewer.
        chunk: Codes read at once.

    Raises:
        DataError: The codes have two lengths, or there are none.
        ConfigurationError: k is under one.
    """
    if not len(database) or queries.shape[1:] != database.shape[1:]:
        raise DataError(
            f"Queries are of shape {queries.shape} and the database of shape {database.shape}; give"
            " codes of one network, at least one of each."
        )
    k = check_count(k, len(database))
    places = np.empty((len(queries), 0), dtype=np.int64)
    distances = np.empty((len(queries), 0), dtype=np.int64)
    asked = as_words(queries).T
    for start in range(0, len(database), chunk):
        words = as_words(np.asarray(database[start : start + chunk]))
        best = [_smallest(distances_to(word, words), k) for word in asked]
        places = np.concatenate([places, start + np.stack([place for place, _ in best])], axis=1)
        distances = np.concatenate([distances, np.stack([far for _, far in best])], axis=1)
        places, distances = in_order(places, distances, k)
    return SearchResult(places, distances, exact=True)


def in_order(places: np.ndarray, distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k of each row by distance, equal ones by place; (Q, k) each."""
    order = np.lexsort((places, distances))[:, :k]
    return np.take_along_axis(places, order, 1), np.take_along_axis(distances, order, 1)


def _smallest(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The places and values of the k smallest distances, of equal ones those that come first."""
    if k >= len(distances):
        order = distances.argsort(kind="stable")
        return order, distances[order]
    # The k-th smallest by counting: what is nearer is in, and the first of those at it.
    reach = int(np.searchsorted(np.bincount(distances).cumsum(), k))
    inside = np.flatnonzero(distances < reach)
    level = np.flatnonzero(distances == reach)[: k - len(inside)]
    chosen = np.concatenate([inside, level])
    order = distances[chosen].argsort(kind="stable")
    return chosen[order], distances[chosen][order]
