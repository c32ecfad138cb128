"""Memory for perturbed activations on the CPU, used again as soon as nobody holds it.

A fresh tensor of some megabytes makes the system hand over zeroed pages in every step anew, which
costs more than the perturbation itself; these are kept, in huge pages where there are any.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import defaultdict

import torch
from torch import Tensor

_LEAST = 1 << 20
"""Bytes under which the allocator's own reuse does as well."""
_PAGE = 2 << 20
"""A huge page."""

_free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)
_blocks: dict[int, int] = {}


def empty_like(tensor: Tensor) -> Tensor:
    """An uninitialised tensor of the shape, type and strides of a dense tensor on the CPU."""
    size = tensor.numel() * tensor.element_size()
    if size < _LEAST:
        return torch.empty_like(tensor)
    capacity = -(-size // _PAGE) * _PAGE
    free = _free[capacity]
    block = free.pop() if free else _block(capacity)
    start = -torch.frombuffer(block, dtype=torch.uint8).data_ptr() % _PAGE
    loan = memoryview(block)[start : start + size]
    # The tensor's storage holds the loan; when the last tensor on it goes, the block comes back.
    weakref.finalize(loan, free.append, block).atexit = False
    storage = torch.frombuffer(loan, dtype=tensor.dtype).untyped_storage()
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape, tensor.stride())


def release() -> None:
    """Gives back what is not on loan."""
    _free.clear()


def held() -> int:
    """Bytes in use and kept for use; torch's own counts do not have them."""
    return sum(_blocks.values())


def _block(capacity: int) -> mmap.mmap:
    block = mmap.mmap(-1, capacity + _PAGE)  # the second part is for alignment, never touched
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
    _blocks[id(block)] = capacity
    weakref.finalize(block, _blocks.pop, id(block)).atexit = False
    return block
