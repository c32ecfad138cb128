"""The operators on a GPU: in Triton, where there is one."""

from __future__ import annotations

import functools
import os
import warnings
from types import ModuleType

import torch
from torch import Tensor

from advreg.errors import SlowKernelsWarning
from advreg.layerwise.kernels import plain
from advreg.layerwise.kernels.layout import Order, form_of, inverse, word_of

_WORD = torch.uint8
_PER_WORD = 4
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MANY = 1 << 31
"""Values whose places the kernels would have to count in 64 bits."""


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
    known = codes.dtype == _WORD and (rms is None or rms.dtype == torch.float32)
    kernels = _kernels_for(activation) if known else None
    if kernels is None:
        return plain.add_signs(activation, codes, rms, epsilon, order, low, high)
    groups, words = codes.shape
    form = form_of(activation.shape, activation.stride(), tuple(order), groups, words * _PER_WORD)
    source = activation if form.dense else activation.permute(order).contiguous()
    perturbed = torch.empty_like(source)
    kernels.add(source, codes.contiguous(), perturbed, form, rms, epsilon, (low, high))
    if form.dense:
        return perturbed
    return torch.empty_like(activation).copy_(perturbed.permute(inverse(order)))


def pack_signs(gradient: Tensor, order: Order, words: int, groups: int) -> tuple[Tensor, Tensor]:
    """See `operators`."""
    kernels = _packing_kernels(gradient)
    if kernels is None:
        return plain.pack_signs(gradient, order, words, groups)
    counts = gradient.new_zeros(3, dtype=torch.float32)
    return _packed(kernels, gradient, order, words, groups, counts), counts


def pack_and_count(
    gradient: Tensor, order: Order, words: int, groups: int, nonfinite: Tensor | int
) -> tuple[Tensor, Tensor]:
    """See `operators`; with the kernels the count is changed in place."""
    if not isinstance(nonfinite, Tensor):
        nonfinite = torch.full((), nonfinite, dtype=torch.int64, device=gradient.device)
    nonfinite = nonfinite.to(gradient.device, torch.int64)
    kernels = _packing_kernels(gradient)
    if kernels is None:
        codes, counts = plain.pack_signs(gradient, order, words, groups)
        return codes, nonfinite + counts[1].long()
    return _packed(kernels, gradient, order, words, groups, nonfinite), nonfinite


def _packing_kernels(gradient: Tensor) -> ModuleType | None:
    return _kernels_for(gradient) if word_of(gradient.device) == _WORD else None


def _packed(
    kernels: ModuleType, gradient: Tensor, order: Order, words: int, groups: int, counts: Tensor
) -> Tensor:
    form = form_of(gradient.shape, gradient.stride(), tuple(order), groups, words * _PER_WORD)
    source = gradient if form.dense else gradient.permute(order).contiguous()
    codes = torch.empty((groups, words), dtype=_WORD, device=gradient.device)
    kernels.pack(source, codes, counts, form)
    if form.groups < groups:
        codes[form.groups :] = 0
    return codes


def _kernels_for(tensor: Tensor) -> ModuleType | None:
    known = tensor.dtype in _DTYPES and 0 < tensor.numel() < _MANY
    return _kernels() if known else None


@functools.cache
def _kernels() -> ModuleType | None:
    """Triton's kernels after a first try; without them, which is said once, None.

    `ADVREG_KERNELS=0` in the environment leaves them out without a word.
    """
    if os.environ.get("ADVREG_KERNELS") == "0":
        return None
    try:
        from advreg.layerwise.kernels import triton_kernels

        values = torch.ones(4, device="cuda")
        codes = torch.zeros(1, 1, dtype=_WORD, device="cuda")
        form = form_of(values.shape, values.stride(), (0,), 1, _PER_WORD)
        for _ in range(2):  # compiled, and as it was kept
            triton_kernels.add(values, codes, values, form, None, 1.0, (0.0, 1.0))
    except Exception as error:  # Triton has many ways of not working: absent, no C compiler, ...
        reason = " ".join(str(error).split())[:200]
        warnings.warn(
            "The sites' kernels for the GPU do not run, so plain torch operations do their work,"
            f" right but slower; install triton and a C compiler ({reason}).",
            SlowKernelsWarning,
            stacklevel=2,
        )
        return None
    return triton_kernels
