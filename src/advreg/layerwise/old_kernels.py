"""A site's two passes over its data in C++: compiled on first use, kept for the next process."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advreg.errors import SlowKernelsWarning
from advreg.layerwise import buffers, toolchain

_SOURCES = tuple(Path(__file__).with_name(name) for name in ("old_kernels.cpp", "kernels_avx512.h"))
_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_LARGE = 1 << 20
"""Bytes that a core's own cache does not keep until the next layer reads them."""
_NO_LIMITS = (-math.inf, math.inf)

Chunks = tuple[int, int, int]
"""Groups, rows and values a row in a group, of a dense tensor."""
Codes = tuple[int, int, int]
"""The address of the first byte, rows that have codes, and bytes from one group to the next."""


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("outer", "rows", "inner", "kept", "stride")]


def add(
    activation: Tensor,
    codes: Codes,
    chunks: Chunks,
    scale: Tensor | float,
    limits: tuple[float, float] | None,
) -> Tensor | None:
    """A new tensor: the activation plus `scale` times the signs of its first rows, clamped.

    Args:
        activation: Its values lie side by side, in the chunks' order.
        codes: Of (outer, n <= rows, ceil(inner / 4)) bytes; see `packing`.
        chunks: Of the activation.
        scale: A number or a scalar tensor.
        limits: The range to clamp to.

    Returns:
        None where no kernel can do it: another device, another type, no compiler.
    """
    call = _kernel("add", activation)
    if call is None:
        return None
    perturbed = buffers.empty_like(activation)
    past_caches = perturbed.nbytes >= _LARGE
    place, *kept = codes
    shape = _Shape(*chunks, *kept)
    places = activation.data_ptr(), place, perturbed.data_ptr()
    call(*places, ctypes.byref(shape), past_caches, float(scale), *(limits or _NO_LIMITS))
    return perturbed


def sign(gradient: Tensor, codes: Codes, chunks: Chunks) -> int | None:
    """Writes the signs of a gradient; those of values that are not finite are zero.

    Args:
        gradient: Its values lie side by side, in the chunks' order.
        codes: Of (outer, rows, ceil(inner / 4)) bytes.
        chunks: Of the gradient.

    Returns:
        How many values were not finite; None, and nothing written, where no kernel can do it.
    """
    call = _kernel("sign", gradient)
    if call is None:
        return None
    place, *kept = codes
    bad: int = call(gradient.data_ptr(), place, ctypes.byref(_Shape(*chunks, *kept)))
    return bad


def words(gradient: Tensor, codes: Tensor, counts: Tensor) -> bool:
    """Writes what `planes.pack_rows` returns.

    Args:
        gradient: Contiguous.
        codes: Contiguous, of words of four bytes, one for every 16 values or fewer.
        counts: Three of float32.

    Returns:
        Whether a kernel can do it; else nothing is written.
    """
    call = _kernel("words", gradient)
    if call is None:
        return False
    places = gradient.data_ptr(), codes.data_ptr(), counts.data_ptr()
    call(*places, codes.numel(), gradient.numel())
    return True


def _kernel(name: str, tensor: Tensor) -> Any:
    kind = type(tensor)
    if not tensor.is_cpu or (kind is not Tensor and kind is not torch.nn.Parameter):
        return None
    return library().get((name, tensor.dtype))


@functools.cache
def library() -> dict[tuple[str, torch.dtype], Any]:
    """The compiled kernels by name and type; without a compiler, which is said once, none.

    `ADVREG_KERNELS=0` in the environment leaves them out without a word.
    """
    if os.environ.get("ADVREG_KERNELS") == "0":
        return {}
    try:
        loaded = toolchain.load(*_SOURCES)
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            "The sites' kernels could not be compiled, so plain torch operations do their work,"
            f" right but slower; install a C++ compiler such as g++ ({toolchain.reason(error)}).",
            SlowKernelsWarning,
            stacklevel=2,
        )
        return {}
    pointer, number = ctypes.c_void_p, ctypes.c_double
    kernels = {}
    for dtype, name in _DTYPES.items():
        kernels["add", dtype] = adds = getattr(loaded, f"add_{name}")
        adds.argtypes, adds.restype = [pointer] * 4 + [ctypes.c_bool] + [number] * 3, None
        kernels["sign", dtype] = packs = getattr(loaded, f"sign_{name}")
        packs.argtypes, packs.restype = [pointer] * 3, ctypes.c_int64
        kernels["words", dtype] = packs = getattr(loaded, f"words_{name}")
        packs.argtypes, packs.restype = [pointer] * 3 + [ctypes.c_int64] * 2, None
    return kernels
