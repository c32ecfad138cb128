"""Data sets whose mini-batches say which examples they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from copy import copy
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from advreg.errors import DataError

INDEX_KEY = "example_index"
"""Under which a mapping holds its example's number, and a batch of mappings those of all."""


class IndexedList(list):
    """An example or a mini-batch whose last entry is the number, or the numbers, of its examples.

    Collating, pinning and moving to a device keep the type of a list.
    """

    taken: bool = False
    """Whether `take_indices` has removed the last entry."""


class IndexedDataset(Dataset[Any]):
    """What `with_indices` returns; `dataset` is the wrapped one."""

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise DataError(
                f"{type(dataset).__name__} has no numbered examples; with_indices takes a"
                " map-style data set, with __len__ and __getitem__."
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return _with_index(self.dataset[index], int(index))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The examples of a mini-batch, in one go where the wrapped data set can."""
        together = getattr(self.dataset, "__getitems__", None)
        found = together(indices) if together else [self.dataset[index] for index in indices]
        return [_with_index(one, int(index)) for one, index in zip(found, indices, strict=True)]


def with_indices(dataset: Any) -> IndexedDataset:
    """A data set whose mini-batches carry each example's number, as example memory wants them.

    A tuple or list `(x, y)` becomes `[x, y, index]`; a mapping gets the entry `"example_index"`.
    torch's collating keeps both. A collate function of your own is wrapped by `keep_indices`.
    The integrations take the numbers out again before the training step sees the mini-batch; a
    loop of your own calls `adversary.set_batch(index)`.

    Under a distributed sampler each rank sees a part of the examples, another one each epoch, and
    its example memory knows its own visits alone: the more ranks, the older is what it remembers.

    Args:
        dataset: A map-style data set whose examples are tuples, lists or mappings. Wrap the whole
            one: of `ConcatDataset([with_indices(a), with_indices(b)])` two examples share a number.

    Raises:
        DataError: The data set has no numbered examples, or (when one is read) its examples are
            of another kind or hold an entry "example_index" already.
    """
    return IndexedDataset(dataset)


def keep_indices(collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """A collate function that never sees the numbers, and whose mini-batches carry them still.

    Args:
        collate: Makes a mini-batch, a tuple, list or mapping, from a list of examples.
    """
    return _Collate(collate)


def take_indices(batch: Any) -> Tensor | None:
    """Removes the examples' numbers from a mini-batch, in place.

    Args:
        batch: As a loader over `with_indices(dataset)` yields it, or any other.

    Returns:
        (B,) int64; None where the mini-batch has none.
    """
    if isinstance(batch, IndexedList) and not batch.taken:
        batch.taken = True
        indices: Tensor = batch.pop()
        return indices
    if isinstance(batch, MutableMapping) and INDEX_KEY in batch:
        found: Tensor = batch.pop(INDEX_KEY)
        return found
    return None


class _Collate:
    """A class, since a loader's workers may have to pickle it."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, examples: list[Any]) -> Any:
        numbers = [take_indices(example) for example in examples]
        # As they were before `with_indices`: a collate function may know tuples from lists.
        examples = [tuple(one) if isinstance(one, IndexedList) else one for one in examples]
        return _with_index(self.collate(examples), default_collate(numbers))


def _with_index(example: Any, index: Any) -> Any:
    if isinstance(example, Mapping):
        if INDEX_KEY in example:
            raise DataError(
                f"The examples have an entry {INDEX_KEY!r} already; rename it, or wrap the data"
                " set by with_indices once."
            )
        if isinstance(example, MutableMapping):
            example = copy(example)  # of its own type; the data set may keep the original
            example[INDEX_KEY] = index
            return example
        return {**example, INDEX_KEY: index}
    if isinstance(example, (tuple, list)) and not hasattr(example, "_fields"):
        if isinstance(example, IndexedList) and not example.taken:
            raise DataError("The data set has its indices already; wrap it by with_indices once.")
        return IndexedList([*example, index])
    raise DataError(
        f"An example is a {type(example).__name__}, which cannot carry its index; let the data set"
        " return a tuple, a list or a mapping."
    )
