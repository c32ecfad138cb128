"""Mini-batches in blocks, each of which comes several times in a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from advreg.units import at_least_one

Item = TypeVar("Item")


def in_blocks(batches: Iterable[Item], block: int, times: int = 2) -> Iterator[Item]:
    """Yields blocks of mini-batches, each so many times in a row.

    For example memory: at the second visit of an example what it left is some mini-batches old, and
    not an epoch, and its crop and flip are the same. An epoch has `times` as many steps, so train
    for as many fewer epochs. The mini-batches of one block are kept in memory and come as they are,
    so do not change one in place.

    Args:
        batches: An epoch's, such as a `torch.utils.data.DataLoader`.
        block: Mini-batches of a block; the last one may have fewer.
        times: How often each block comes.

    Raises:
        ConfigurationError: One of the numbers is below 1.
    """
    at_least_one(block=block, times=times)
    return _repeated(iter(batches), block, times)


def _repeated(left: Iterator[Item], block: int, times: int) -> Iterator[Item]:
    while kept := list(islice(left, block)):
        for _ in range(times):
            yield from kept
        kept.clear()  # before the next ones are made
