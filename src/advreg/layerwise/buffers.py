"""Memory for perturbed activations on the CPU, used again as soon as nobody holds it.

A fresh tensor of some megabytes makes the system hand over zeroed pages in every step anew, which
costs more than the perturbation itself; these are kept, in huge pages where there are any.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import defaultdict, deque

import torch
from torch import Tensor, UntypedStorage

_LEAST = 1 << 20
"""Bytes under which the allocator's own reuse does as well."""
_PAGE = 2 << 20
"""A huge page."""

_kept: defaultdict[int, deque[UntypedStorage]] = defaultdict(deque)
_blocks: dict[int, int] = {}


def empty_like(tensor: Tensor) -> Tensor:
    """An uninitialised tensor of the shape, type and strides of a dense tensor on the CPU."""
    size = tensor.numel() * tensor.element_size()
    if size < _LEAST:
        return torch.empty_like(tensor)
    capacity = -(-size // _PAGE) * _PAGE
    storage = _free(_kept[capacity]) or _block(capacity)
    _kept[capacity].append(storage)
    lent = torch.empty(0, dtype=tensor.dtype)
    return lent.set_(storage, 0, tensor.shape, tensor.stride())


def release() -> None:
    """Gives back what is not on loan, and forgets what is."""
    _kept.clear()


def held() -> int:
    """Bytes in use and kept for use; torch's own counts do not have them."""
    return sum(_blocks.values())


def _free(kept: deque[UntypedStorage]) -> UntypedStorage | None:
    # In turn, so that in steady training the first one looked at is free.
    for _ in range(len(kept)):
        storage = kept.popleft()
        if torch._C._storage_Use_Count(storage._cdata) == 1:  # by `kept` alone
            return storage
        kept.append(storage)
    return None


def _block(capacity: int) -> UntypedStorage:
    block = mmap.mmap(-1, capacity + _PAGE)  # the second part is for alignment, never touched
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
    _blocks[id(block)] = capacity
    weakref.finalize(block, _blocks.pop, id(block)).atexit = False
    start = -torch.frombuffer(block, dtype=torch.uint8).data_ptr() % _PAGE
    aligned = memoryview(block)[start : start + capacity]
    return torch.frombuffer(aligned, dtype=torch.uint8).untyped_storage()
