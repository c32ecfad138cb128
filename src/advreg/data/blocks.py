"""Mini-batches in blocks, each of which comes several times in a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from copy import copy
from itertools import islice
from typing import Generic, TypeVar

from advreg.errors import ConfigurationError
from advreg.units import at_least_one

Item = TypeVar("Item")


class Blocks(Generic[Item]):
    """What `in_blocks` returns: each `iter` of it is an epoch.

    It does not show its loader's `dataset` and `batch_sampler`: a trainer would build a loader
    without blocks of them where it goes on within an epoch.
    """

    def __init__(self, batches: Iterable[Item], block: int, times: int) -> None:
        at_least_one(block=block, times=times)
        self.batches, self.block, self.times = batches, block, times
        self._spent = False

    def __iter__(self) -> Iterator[Item]:
        left = iter(self.batches)
        if left is self.batches:
            if self._spent:
                raise ConfigurationError(
                    "in_blocks was given an iterator, which comes to its end once; give it the"
                    " loader itself, or call it anew for each epoch."
                )
            self._spent = True
        return self._repeated(left)

    def _repeated(self, left: Iterator[Item]) -> Iterator[Item]:
        while kept := list(islice(left, self.block)):
            for _ in range(self.times):
                yield from map(_own, kept)
            kept.clear()  # before the next ones are made

    def __len__(self) -> int:
        """Mini-batches of an epoch, all visits counted."""
        return self.times * len(self.batches)  # type: ignore[arg-type]


def in_blocks(batches: Iterable[Item], block: int, times: int = 2) -> Blocks[Item]:
    """Blocks of mini-batches, each so many times in a row.

    For example memory: at the second visit of an example what it left is some mini-batches old, and
    not an epoch, and its crop and flip are the same. An epoch has `times` as many steps, so train
    for as many fewer epochs. The mini-batches of one block are kept in memory. A list or a mapping
    comes as a copy, of which entries may be taken; its tensors are the same, so do not change one
    in place.

    Args:
        batches: An epoch's, such as a `torch.utils.data.DataLoader`. For several epochs give what
            can be gone through as often, and no iterator.
        block: Mini-batches of a block; the last one may have fewer.
        times: How often each block comes.

    Returns:
        An iterable for any number of epochs, which has a length if `batches` has one.

    Raises:
        ConfigurationError: One of the numbers is below 1; or, in a second epoch, `batches` is an
            iterator.
    """
    return Blocks(batches, block, times)


def _own(batch: Item) -> Item:
    return copy(batch) if isinstance(batch, (list, MutableMapping)) else batch
