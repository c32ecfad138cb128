"""How well codes retrieve: every figure from one pass over the Hamming distances."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from advreg.errors import ConfigurationError, DataError
from advreg.hashing.distances import as_words, distances_to
from advreg.hashing.packing import CodeFormat
from advreg.hashing.relevance import Relevance
from advreg.hashing.ties import (
    average_precision,
    precision_at,
    precision_recall,
    precision_within,
)


@dataclass(frozen=True, eq=False)
class Rankings:
    """What the figures are computed from; memory grows with the queries alone.

    Attributes:
        counts: (Q, q + 1) int64, database items at each distance from each query.
        hits: (Q, q + 1) int64, the relevant ones among them.
        stable: For each k asked for, (Q,) float64 precisions of the ranking whose ties stand in
            the database's order; see `stable_precision`.
        seconds: Spent on distances and counting, for all queries.
    """

    counts: np.ndarray
    hits: np.ndarray
    stable: dict[int | None, np.ndarray]
    seconds: float

    @property
    def answerable(self) -> np.ndarray:
        """(Q,) bool: queries with a relevant item in the database."""
        return self.hits.sum(1) > 0


def rank(
    queries: np.ndarray,
    database: np.ndarray,
    relevance: Relevance,
    bits: int,
    ks: Sequence[int | None] = (None,),
) -> Rankings:
    """Counts the database by distance from each query, one query at a time.

    Args:
        queries: (Q, q / 8) uint8 packed codes.
        database: (N, q / 8) uint8 packed codes.
        relevance: What should be found; of the same queries and database.
        bits: q.
        ks: Places for which the stable ranking's precision is wanted; None is all.

    Raises:
        DataError: The codes are of another format, or there is a target too many or too few.
    """
    format_ = CodeFormat(bits)
    words = as_words(format_.check(database))
    asked = as_words(format_.check(queries)).T
    sizes = len(relevance.queries), len(relevance.database)
    if sizes != (len(queries), len(database)):
        raise DataError(
            f"There are {len(queries)} and {len(database)} codes for {sizes[0]} and {sizes[1]}"
            " targets of queries and database; give one target for each code."
        )
    counts = np.empty((len(queries), bits + 1), dtype=np.int64)
    hits = np.empty_like(counts)
    stable = {k: np.empty(len(queries)) for k in ks}
    seconds = 0.0
    for query, word in enumerate(asked):
        began = time.perf_counter()
        distances = distances_to(word, words)
        seconds += time.perf_counter() - began
        relevant = relevance.of(query)
        both = np.bincount(2 * distances + relevant, minlength=2 * bits + 2).reshape(-1, 2)
        counts[query], hits[query] = both.sum(1), both[:, 1]
        if ks:
            found = relevant[distances.argsort(kind="stable")]
            for k in ks:
                stable[k][query] = stable_precision(found[:k])
    return Rankings(counts, hits, stable, seconds)


def stable_precision(found: np.ndarray) -> float:
    """The average precision that the DeepHash-pytorch code prints, its sort taken as stable.

    Its denominator is the number of hits among the ranked items given, however many there were to
    be found, and a query without a hit counts 0. Ties stand in the database's order: such a figure
    changes when the database is shuffled, and is given for comparison with published tables alone.

    Args:
        found: (k,) bool, whether each item of the ranking's beginning is relevant.
    """
    places = np.flatnonzero(found) + 1
    return float((np.arange(1, len(places) + 1) / places).mean()) if len(places) else 0.0


def figures(rankings: Rankings, ks: Sequence[int] = (), radius: int = 2) -> dict[str, Any]:
    """The figures of rankings, ready for JSON.

    Queries without a relevant item in the database have no average precision: they are left out of
    `map`, and counted. Where `stable` holds a k it is given beside the tie-aware figure.

    Args:
        rankings: As `rank` returns them.
        ks: Places of mAP@k and precision@k.
        radius: Of the precision within a Hamming ball.

    Returns:
        `map` and `map@k`: each `expected`, `optimistic`, `pessimistic` and, where known,
        `deephash_pytorch`; `precision@k`; `precision_within`; `curve` with `precision` and
        `recall` by radius; `queries`, `without_relevant`, `database`, `milliseconds_per_query`.

    Raises:
        DataError: No query has a relevant item.
        ConfigurationError: A k is under one, or the radius negative.
    """
    answerable = rankings.answerable
    if not answerable.any():
        raise DataError(
            "No query has a relevant image in the database; give a database with the queries'"
            " classes."
        )
    if not isinstance(radius, int) or radius < 0:
        raise ConfigurationError(f"radius is {radius!r}; give a whole number of at least 0.")
    counts, hits = rankings.counts[answerable], rankings.hits[answerable]
    found: dict[str, Any] = {"map": _mean_precision(rankings, None)}
    for k in ks:
        found[f"map@{k}"] = _mean_precision(rankings, k)
        found[f"precision@{k}"] = float(precision_at(counts, hits, k).mean())
    precision, recall = precision_recall(counts, hits)
    return {
        **found,
        "precision_within": {
            "radius": radius,
            "precision": float(precision_within(counts, hits, radius).mean()),
            "queries_that_find_nothing": int((counts[:, : radius + 1].sum(1) == 0).sum()),
        },
        "curve": {
            "precision": [None if np.isnan(value) else float(value) for value in precision],
            "recall": recall.tolist(),
        },
        "queries": len(answerable),
        "without_relevant": int((~answerable).sum()),
        "database": int(counts[0].sum()),
        "milliseconds_per_query": 1000 * rankings.seconds / len(answerable),
    }


def _mean_precision(rankings: Rankings, k: int | None) -> dict[str, float]:
    answerable = rankings.answerable
    found = average_precision(rankings.counts[answerable], rankings.hits[answerable], k)
    means = {
        "expected": float(found.expected.mean()),
        "optimistic": float(found.optimistic.mean()),
        "pessimistic": float(found.pessimistic.mean()),
    }
    if k in rankings.stable:
        # That code divides by all queries, those without a relevant item counting 0.
        means["deephash_pytorch"] = float(rankings.stable[k].mean())
    return means


def evaluate_retrieval(
    queries: np.ndarray,
    database: np.ndarray,
    query_targets: np.ndarray | Tensor,
    database_targets: np.ndarray | Tensor,
    bits: int,
    ks: Sequence[int] = (),
    radius: int = 2,
) -> dict[str, Any]:
    """Ranks a database by Hamming distance from each query and measures the rankings.

    Args:
        queries: (Q, q / 8) uint8 packed codes.
        database: (N, q / 8) uint8 packed codes.
        query_targets: (Q,) classes, or (Q, K) 0/1 labels; one shared label makes relevant.
        database_targets: (N,) or (N, K) likewise.
        bits: q.
        ks: Places of mAP@k and precision@k.
        radius: Of the precision within a Hamming ball.

    Returns:
        What `figures` returns.

    Raises:
        DataError: Codes and targets do not fit, or nothing could be found.
        ConfigurationError: A k or the radius cannot work.
    """
    relevance = Relevance(query_targets, database_targets)
    return figures(rank(queries, database, relevance, bits, [None, *ks]), ks, radius)
