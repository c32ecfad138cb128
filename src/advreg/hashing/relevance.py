"""Which items of a database a query should find."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from advreg.errors import DataError


class Relevance:
    """Relevance by class; of images with several labels, by a label that both have.

    Args:
        queries: (Q,) whole classes, or (Q, K) 0/1 labels.
        database: (N,) or (N, K) likewise.

    Raises:
        DataError: The two are not of one kind, or the database is of one class alone.
    """

    def __init__(self, queries: np.ndarray | Tensor, database: np.ndarray | Tensor) -> None:
        self.queries, self.database = _labels(queries), _labels(database)
        if self.queries.shape[1:] != self.database.shape[1:]:
            raise DataError(
                f"Targets of queries have shape {self.queries.shape} and those of the database"
                f" {self.database.shape}; give both as classes, or both as the same 0/1 labels."
            )
        single = self.database.ndim == 1 and len(np.unique(self.database)) < 2
        if single and len(np.unique(np.concatenate([self.queries, self.database]))) < 2:
            raise DataError(
                "All images are of one class, so that every ranking is perfect; give at least two"
                " classes."
            )

    def of(self, query: int) -> np.ndarray:
        """The relevant items of one query, (N,) bool."""
        if self.database.ndim == 1:
            return np.equal(self.database, self.queries[query])
        return np.asarray(self.database[:, self.queries[query]].any(1))


def _labels(targets: np.ndarray | Tensor) -> np.ndarray:
    given = np.asarray(targets.cpu() if isinstance(targets, Tensor) else targets)
    if given.ndim == 1 and given.dtype.kind in "iu" and len(given):
        return given
    if given.ndim == 2 and given.size and np.isin(given, (0, 1)).all():
        return given.astype(np.bool_)
    raise DataError(
        f"Targets are {given.dtype} of shape {given.shape}; give classes (N,), or labels (N, K)"
        " that are 0 or 1, at least one of them."
    )
