"""Memory for perturbed activations on the CPU, used again as soon as nobody holds it.

A fresh tensor of some megabytes makes the system hand over zeroed pages in every step, which
costs more than the perturbation itself; these are kept, in huge pages where there are any.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Iterator

import torch
from torch import Tensor, UntypedStorage

from advreg._torch_compat import storage_users

LEAST = 1 << 20
"""Bytes from which it is worth it, and that a core's own cache does not keep for the next layer."""
_PAGE = 2 << 20
"""A huge page."""

_kept: defaultdict[int, deque[UntypedStorage]] = defaultdict(deque)
_blocks: dict[int, int] = {}
_lock = threading.RLock()

_histories: list[list[tuple[int, int, int]]] = []


def empty_like(tensor: Tensor) -> Tensor:
    """An uninitialised tensor of the shape, type and strides of a dense tensor on the CPU."""
    size = tensor.numel() * tensor.element_size()
    capacity = -(-size // _PAGE) * _PAGE
    lent = torch.empty(0, dtype=tensor.dtype, device="cpu")
    with _lock:  # until it is lent, it seems to be free
        storage = _free(_kept[capacity])
        if storage is None:
            _trim()  # so that tensors of ever new sizes do not fill the memory
            storage = _block(capacity)
        _kept[capacity].append(storage)
        return lent.set_(storage, 0, tensor.shape, tensor.stride())


def release() -> None:
    """Gives back what is not on loan, and forgets what is."""
    with _lock:
        _kept.clear()


@contextlib.contextmanager
def followed() -> Iterator[list[tuple[int, int, int]]]:
    """Of each block taken or given back meanwhile: the time in ns, a key, and the signed bytes.

    Blocks from before are not lent meanwhile.
    """
    release()
    history: list[tuple[int, int, int]] = []
    _histories.append(history)
    try:
        yield history
    finally:
        _histories.remove(history)


def held() -> int:
    """Bytes in use and kept for use; torch's own counts do not have them."""
    return sum(_blocks.values())


def _free(kept: deque[UntypedStorage]) -> UntypedStorage | None:
    # In turn, so that in steady training the first one looked at is free.
    for _ in range(len(kept)):
        storage = kept.popleft()
        if storage_users(storage) > 1 or sys.getrefcount(storage) > 2:
            kept.append(storage)
        elif not storage.is_shared():  # with another process, which may go on reading it
            return storage
    return None


def _trim() -> None:
    for kept in _kept.values():
        while _free(kept) is not None:
            pass


def _block(capacity: int) -> UntypedStorage:
    # Private, or a forked process would write to it too; the second part is for alignment alone.
    block = mmap.mmap(-1, capacity + _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
    _note(id(block), capacity)
    weakref.finalize(block, _note, id(block), -capacity).atexit = False
    start = -torch.frombuffer(block, dtype=torch.uint8).data_ptr() % _PAGE
    aligned = memoryview(block)[start : start + capacity]
    return torch.frombuffer(aligned, dtype=torch.uint8).untyped_storage()


def _note(key: int, size: int) -> None:
    if size > 0:
        _blocks[key] = size
    else:
        del _blocks[key]
    for history in _histories:
        history.append((time.time_ns(), key, size))


def _forget() -> None:
    """For a forked process, in which another thread may have held the lock."""
    global _lock
    _lock = threading.RLock()
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
