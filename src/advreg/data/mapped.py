"""Images that do not fit into memory, kept in a file that is mapped into it."""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from advreg.errors import DataError
from advreg.shortage import free_memory

SHARE = 0.5
"""Of the memory that is free: what takes more is mapped."""

_AT_ONCE = 2**22
"""Bytes of images worked on at a time."""

_maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""By the address of the tensor's storage; a map lives as long as its tensor."""


def allocate(shape: tuple[int, ...]) -> Tensor:
    """Room for images: in memory where they fit, else in a file that vanishes with the process.

    The file is in `ADVREG_CACHE`, or where caches usually are.

    Args:
        shape: (N, C, H, W).

    Returns:
        A uint8 tensor of that shape; what it holds is not defined.

    Raises:
        DataError: The disk has no room for it.
    """
    size = math.prod(shape)
    if size <= SHARE * free_memory():
        return torch.empty(shape, dtype=torch.uint8)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, "no room")
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), size)
            mapping = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise DataError(
            f"The images need {size / 2**30:.1f} GiB, more than half of the free memory, and"
            f" {folder} cannot take them ({error.strerror}); set ADVREG_CACHE to a folder on a"
            " larger disk, or use fewer images."
        ) from error
    return register(torch.from_numpy(np.frombuffer(mapping, dtype=np.uint8)), mapping).view(shape)


def register(tensor: Tensor, mapping: mmap.mmap) -> Tensor:
    """Makes `release` and `is_mapped` know a tensor's map; returns the tensor."""
    _maps[tensor.untyped_storage().data_ptr()] = mapping
    return tensor


def is_mapped(images: Tensor) -> bool:
    """Whether images lie in a file."""
    return images.untyped_storage().data_ptr() in _maps


def release(images: Tensor) -> None:
    """Gives the memory back that the images read so far take; they stay in the file."""
    mapping = _maps.get(images.untyped_storage().data_ptr())
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapping.madvise(mmap.MADV_DONTNEED)


def rows_at_once(images: Tensor) -> int:
    """How many images to work on at a time, so that it needs little memory beside the images."""
    return max(_AT_ONCE * len(images) // max(images.numel(), 1), 1)


def cache_folder() -> Path:
    """Where files may lie that can be made again."""
    chosen = os.environ.get("ADVREG_CACHE")
    usual = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(usual) / "advreg"


def _reserve(descriptor: int, size: int) -> None:
    """Takes the room on the disk now: a map that finds none later ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
