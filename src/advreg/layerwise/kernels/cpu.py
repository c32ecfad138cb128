"""The operators on a CPU in C++: compiled on first use, kept for the next process."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advreg.errors import SlowKernelsWarning
from advreg.layerwise.kernels import buffers, layout, plain, toolchain
from advreg.layerwise.kernels.layout import Order, form_of, inverse

_SOURCE = Path(__file__).with_name("kernels.cpp")
_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_WORD = torch.float32
_PER_WORD = 16


def add_signs(
    activation: Tensor,
    codes: Tensor,
    rms: Tensor | None,
    epsilon: float,
    order: Order,
    low: float,
    high: float,
) -> Tensor:
    """See `operators`."""
    kernel = library().get(("add", activation.dtype))
    double = rms is not None and rms.dtype == torch.float64
    known = rms is None or double or rms.dtype == torch.float32
    if kernel is None or codes.dtype != _WORD or not known:
        return plain.add_signs(activation, codes, rms, epsilon, order, low, high)
    groups, words = codes.shape
    form = form_of(activation.shape, activation.stride(), tuple(order), groups, words * _PER_WORD)
    source = activation if form.dense else activation.permute(order).contiguous()
    large, codes = source.nbytes >= buffers.LEAST, codes.contiguous()
    perturbed = buffers.empty_like(source) if large else torch.empty_like(source)
    kernel(
        *(source.data_ptr(), codes.data_ptr(), perturbed.data_ptr(), form.groups, words),
        *(form.size, large, None if rms is None else rms.data_ptr()),
        *(double, epsilon, low, high),
    )
    if form.dense:
        return perturbed
    return torch.empty_like(activation).copy_(perturbed.permute(inverse(order)))


def pack_signs(gradient: Tensor, order: Order, words: int, groups: int) -> tuple[Tensor, Tensor]:
    """See `operators`."""
    kernel = library().get(("pack", gradient.dtype))
    if kernel is None or "cpu" not in layout.PACKS_BY_OPERATOR:
        return plain.pack_signs(gradient, order, words, groups)
    form = form_of(gradient.shape, gradient.stride(), tuple(order), groups, words * _PER_WORD)
    source = gradient if form.dense else gradient.permute(order).contiguous()
    codes = torch.empty(groups, words, dtype=_WORD, device="cpu")
    counts = torch.empty(3, dtype=torch.float32, device="cpu")
    places = source.data_ptr(), codes.data_ptr(), counts.data_ptr()
    kernel(*places, form.groups, words, form.size)
    if form.groups < groups:
        codes[form.groups :] = 0
    return codes, counts


@functools.cache
def library() -> dict[tuple[str, torch.dtype], Any]:
    """The compiled kernels by name and type; without a compiler, which is said once, none.

    `ADVREG_KERNELS=0` in the environment leaves them out without a word.
    """
    if os.environ.get("ADVREG_KERNELS") == "0":
        return {}
    try:
        loaded = toolchain.load(_SOURCE)
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            "The sites' kernels could not be compiled, so plain torch operations do their work,"
            f" right but slower; {toolchain.mend(error)}.",
            SlowKernelsWarning,
            stacklevel=2,
        )
        return {}
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    number, flag = ctypes.c_double, ctypes.c_bool
    kernels = {}
    for dtype, name in _DTYPES.items():
        kernels["add", dtype] = adds = getattr(loaded, f"add_{name}")
        adds.argtypes = [pointer] * 3 + [count] * 3 + [flag, pointer, flag] + [number] * 3
        kernels["pack", dtype] = packs = getattr(loaded, f"pack_{name}")
        packs.argtypes = [pointer] * 3 + [count] * 3
        adds.restype = packs.restype = None
    return kernels
