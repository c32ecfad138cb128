"""The two passes over a site's data on a GPU, in Triton; see `layout` for the words.

A program takes a block of one group's words, whose values are four runs.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from advreg.layerwise.kernels.layout import Form

_BLOCK = 1024
"""Words a program: 4,096 values, so that each thread of four warps reads whole vectors."""


def add(
    activation: Tensor,
    codes: Tensor,
    perturbed: Tensor,
    form: Form,
    rms: Tensor | None,
    epsilon: float,
    limits: tuple[float, float],
) -> None:
    """Writes the activation plus `epsilon * rms` times its signs, clamped.

    Args:
        activation: Its values lie side by side in the words' order.
        codes: (groups, words) uint8, contiguous.
        perturbed: As the activation.
        form: Of the activation.
        rms: A scalar of float32, or None for one.
        epsilon: The other factor on the signs.
        limits: The range to clamp to; infinite ones do not clamp.
    """
    words = codes.shape[1]
    with torch.cuda.device_of(activation):  # Triton asks for the current one
        _add[_grid(form, words)](
            *(activation, codes, perturbed, rms, epsilon, torch.finfo(activation.dtype).max),
            *(*limits, words, form.size),
            HAS_RMS=rms is not None,
            CLAMPS=limits != (-math.inf, math.inf),
            BLOCK=_BLOCK,
        )


def pack(gradient: Tensor, codes: Tensor, counts: Tensor, form: Form) -> None:
    """Writes the signs of a gradient; those of values that are not finite are zero.

    Args:
        gradient: Its values lie side by side in the words' order.
        codes: (groups, words) uint8, contiguous.
        counts: Three zeros of float32.
        form: Of the gradient.
    """
    words = codes.shape[1]
    with torch.cuda.device_of(gradient):
        _pack[_grid(form, words)](gradient, codes, counts, words, form.size, BLOCK=_BLOCK)


def _grid(form: Form, words: int) -> tuple[int]:
    return (form.groups * triton.cdiv(words, _BLOCK),)


@triton.jit
def _place(words, size, BLOCK: tl.constexpr):
    """A program's words, the place of its first values, and its words' places in a group."""
    blocks = tl.cdiv(words, BLOCK)
    group = (tl.program_id(0) // blocks).to(tl.int64)
    word = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    return group * words, group * size, word


@triton.jit
def _add(
    activation,
    codes,
    perturbed,
    rms,
    epsilon,
    limit,
    low,
    high,
    words,
    size,
    HAS_RMS: tl.constexpr,
    CLAMPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first_word, first_value, word = _place(words, size, BLOCK)
    packed = tl.load(codes + first_word + word, mask=word < words, other=0).to(tl.int32)
    kind = activation.dtype.element_ty
    delta = tl.load(rms) * epsilon if HAS_RMS else tl.cast(epsilon, tl.float32)
    # Finite, for zero times infinity is NaN; comparisons with NaN are false, so that NaN stays.
    delta = tl.where(delta < -limit, -limit, delta)
    delta = tl.where(delta > limit, limit, delta)
    delta = tl.cast(tl.cast(delta, kind), tl.float32)
    for k in tl.static_range(4):
        place = k * words + word
        inside = (word < words) & (place < size)
        code = packed >> 2 * k
        step = ((code & 1) - (code >> 1 & 1)).to(tl.float32) * delta
        values_at = first_value + place
        total = tl.load(activation + values_at, mask=inside).to(tl.float32) + step
        if CLAMPS:
            total = tl.where(total < low, low, total)
            total = tl.where(total > high, high, total)
        tl.store(perturbed + values_at, total.to(kind), mask=inside)


@triton.jit
def _pack(gradient, codes, counts, words, size, BLOCK: tl.constexpr):
    first_word, first_value, word = _place(words, size, BLOCK)
    packed = tl.zeros([BLOCK], tl.int32)
    bad = tl.zeros([BLOCK], tl.int32)
    for k in tl.static_range(4):
        place = k * words + word
        inside = (word < words) & (place < size)
        values = tl.load(gradient + first_value + place, mask=inside, other=0.0).to(tl.float32)
        # Infinity less itself is NaN, and NaN is equal to nothing.
        finite = values - values == 0
        bad += tl.where(finite, 0, 1)
        code = tl.where(values > 0, 1, tl.where(values < 0, 2, 0))
        packed |= tl.where(finite, code, 0) << 2 * k
    tl.store(codes + first_word + word, packed.to(tl.uint8), mask=word < words)
    missed = tl.sum(bad)
    if missed > 0:
        tl.atomic_add(counts + 1, missed.to(tl.float32))
    if (missed > 0) | (tl.max(packed) > 0):
        tl.store(counts + 2, 1.0)
    if tl.program_id(0) == 0:
        tl.store(counts, 1.0)
