"""Hamming distances between packed codes."""

from __future__ import annotations

import numpy as np

from advreg.errors import DataError


def as_words(codes: np.ndarray) -> np.ndarray:
    """Codes as machine words, so that one instruction counts 64 bits.

    Args:
        codes: (N, bytes) uint8.

    Returns:
        (words, N) uint64, a row for each eight bytes; missing bytes are 0.
    """
    count, width = codes.shape
    padded = np.zeros((count, -(-width // 8) * 8), dtype=np.uint8)
    padded[:, :width] = codes
    return np.ascontiguousarray(padded.view(np.uint64).T)


def distances_to(word: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The distances of one code to many.

    Args:
        word: (words,) uint64, the code.
        words: (words, N) uint64, as `as_words` returns them.

    Returns:
        (N,) uint16, the number of bits that differ, 0 to 256.
    """
    found = np.bitwise_count(word[0] ^ words[0]).astype(np.uint16)
    for one, many in zip(word[1:], words[1:], strict=True):
        found += np.bitwise_count(one ^ many)
    return found


def hamming(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """All distances between two sets of codes.

    Args:
        queries: (Q, bytes) uint8.
        database: (N, bytes) uint8.

    Returns:
        (Q, N) uint16.

    Raises:
        DataError: The codes are not bytes, or of two lengths.
    """
    for codes in (queries, database):
        if codes.ndim != 2 or codes.dtype != np.uint8:
            raise DataError(
                f"Codes are {codes.dtype} of shape {codes.shape}; give bytes (uint8), a row a code."
            )
    if queries.shape[1] != database.shape[1]:
        raise DataError(
            f"Queries have {queries.shape[1]} bytes a code and the database {database.shape[1]};"
            " encode both with one network."
        )
    words = as_words(database)
    found = np.empty((len(queries), len(database)), dtype=np.uint16)
    for row, word in zip(found, as_words(queries).T, strict=True):
        row[:] = distances_to(word, words)
    return found
