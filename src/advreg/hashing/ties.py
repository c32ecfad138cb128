"""Precision of rankings in which many items share a rank, in closed form.

Codes of q bits have at most q + 1 distances, so that most of a ranking is ties. The figures here
are those of McSherry and Najork (ECIR 2008, "Computing information retrieval performance measures
efficiently in the presence of tied scores"), used for hashing by He, Cakir, Bargal and Sclaroff
(CVPR 2018, "Hashing as tie-aware learning to rank"): expectations over all orders of the tied, all
equally likely. A ranking is given by two counts for each distance d: `counts`, the items there,
and `hits`, the relevant ones among them; both (Q, D) int64, a row a query.

With N and R the items and the relevant ones before distance d, n and r those at it, the i-th item
of the tie is relevant with probability r / n, and then has (i - 1) (r - 1) / (n - 1) relevant ones
of its tie before it. The average precision with a denominator M is therefore

    AP = 1/M sum_d r/n sum_{i=1..n} (R + 1 + (i - 1) c) / (N + i),    c = (r - 1) / (n - 1)

whose inner sum is n c + (R + 1 - c (N + 1)) (H(N + n) - H(N)), with H the harmonic numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advreg.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class AveragePrecision:
    """The average precision of each query; (Q,) float64, not a number without a relevant item.

    Attributes:
        expected: The mean over all orders of tied items.
        optimistic: Relevant items first within each tie: the largest of all orders.
        pessimistic: Relevant items last: the smallest.
    """

    expected: np.ndarray
    optimistic: np.ndarray
    pessimistic: np.ndarray


def average_precision(
    counts: np.ndarray, hits: np.ndarray, k: int | None = None
) -> AveragePrecision:
    """Average precision over the whole ranking, or over its first k places.

    The denominator is the number of relevant items, at most k: a perfect ranking has 1. With k
    beyond the database the figure is that of the whole ranking.

    Args:
        counts: (Q, D) items at each distance.
        hits: (Q, D) relevant items at each distance.
        k: Places that count; None is all.

    Raises:
        ConfigurationError: k is under one.
        DataError: The counts are no ranking.
    """
    before, found_before = _before(counts, hits)
    size = _size(counts)
    places = _places(k, size)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, size + 1))])
    inside = np.clip(places - before, 0, counts)  # of each tie, the places that count
    first = np.minimum(hits, inside)
    last = np.clip(inside - (counts - hits), 0, None)
    slope = np.where(counts > 1, (hits - 1) / np.maximum(counts - 1, 1), 0.0)
    spread = harmonic[before + inside] - harmonic[before]
    expected = (hits / np.maximum(counts, 1)) * (
        inside * slope + (found_before + 1 - slope * (before + 1)) * spread
    )
    optimistic = first + (found_before - before) * (harmonic[before + first] - harmonic[before])
    skipped = before + counts - hits
    pessimistic = last + (found_before - skipped) * (harmonic[skipped + last] - harmonic[skipped])
    relevant = hits.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = [
            np.where(relevant > 0, part.sum(1) / np.minimum(relevant, places), np.nan)
            for part in (expected, optimistic, pessimistic)
        ]
    return AveragePrecision(*share)


def precision_at(counts: np.ndarray, hits: np.ndarray, k: int) -> np.ndarray:
    """The expected share of relevant items among the first k, (Q,) float64.

    With k beyond the database it is the share among all items.
    """
    before, _ = _before(counts, hits)
    places = _places(k, _size(counts))
    inside = np.clip(places - before, 0, counts)
    return np.asarray((hits / np.maximum(counts, 1) * inside).sum(1) / places)


def precision_within(counts: np.ndarray, hits: np.ndarray, radius: int) -> np.ndarray:
    """The share of relevant items among those at a distance of at most `radius`, (Q,) float64.

    A query that finds nothing there counts 0, as in the literature of hash lookup.
    """
    found, right = (part[:, : radius + 1].sum(1) for part in (counts, hits))
    return right / np.maximum(found, 1)


def precision_recall(counts: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of what lies within each radius.

    Precision pools the items that all queries find, so that a query without any weighs nothing;
    recall is the mean over the queries that have relevant items.

    Returns:
        (D,) precisions, not a number where nothing is found, and (D,) recalls; by radius, from 0.
    """
    found, right = counts.cumsum(1), hits.cumsum(1)
    relevant = right[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = right.sum(0) / found.sum(0)
    asked = relevant[:, 0] > 0
    return precision, (right[asked] / relevant[asked]).mean(0)


def _before(counts: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items, and the relevant ones, that are nearer than each distance."""
    return counts.cumsum(1) - counts, hits.cumsum(1) - hits


def _size(counts: np.ndarray) -> int:
    sizes = np.unique(counts.sum(1))
    if len(sizes) != 1 or not sizes[0]:
        raise DataError("Each query ranks the whole database, which has at least one item.")
    return int(sizes[0])


def _places(k: int | None, size: int) -> int:
    if k is None:
        return size
    if not isinstance(k, int) or k < 1:
        raise ConfigurationError(f"k is {k!r}; give a whole number of at least 1.")
    return min(k, size)
