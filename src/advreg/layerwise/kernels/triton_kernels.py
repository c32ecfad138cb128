"""The two passes over a site's data on a GPU, in Triton; see `layout` for the words.

A program takes a block of one group's words, whose values are four runs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from advreg.layerwise.kernels.layout import Form

_BLOCK = 1024
"""Words a program: 4,096 values, so that each thread of four warps reads whole vectors."""
_LARGEST = {
    dtype: torch.finfo(dtype).max for dtype in (torch.float32, torch.bfloat16, torch.float16)
}
_compiled: dict[Any, Any] = {}
"""What Triton has compiled, by the kind of the arguments."""


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
    numbers = float(epsilon), _LARGEST[activation.dtype], *map(float, limits)
    constants = rms is not None, limits != (-math.inf, math.inf)
    _launch(_add, form, codes.shape[1], (activation, codes, perturbed, rms, *numbers), constants)


def pack(gradient: Tensor, codes: Tensor, counts: Tensor, form: Form) -> None:
    """Writes the signs of a gradient; those of values that are not finite are zero.

    Args:
        gradient: Its values lie side by side in the words' order.
        codes: (groups, words) uint8, contiguous.
        counts: Three zeros of float32 for the operator's counts; or a scalar, to which is added
            how many values are not finite.
        form: Of the gradient.
    """
    _launch(_pack, form, codes.shape[1], (gradient, codes, counts), (counts.dim() == 1,))


def _launch(
    kernel: Any, form: Form, words: int, args: tuple[Any, ...], constants: tuple[bool, ...]
) -> None:
    """Launches a kernel.

    Triton examines every argument in every launch, which takes longer than the kernel does. What
    it has compiled for arguments of a kind is kept here, and launched as it is.

    Args:
        kernel: `_add` or `_pack`.
        form: Of the tensor.
        words: In a group.
        args: Those before the number of words and the size; tensors and numbers.
        constants: What the kernel is compiled for, but for the block.
    """
    first, size = args[0], form.size
    grid = form.groups * -(-words // _BLOCK), 1, 1
    aligned = [arg.data_ptr() % 16 for arg in args if isinstance(arg, Tensor)]
    numbers = words % 16, words == 1, size % 16, size == 1
    key = kernel, first.device, first.dtype, constants, *numbers, *aligned
    given = *args, words, size, *constants, _BLOCK
    with torch.cuda.device_of(first):  # Triton asks for the current one
        compiled = _compiled.get(key)
        if compiled is None:
            _compiled[key] = kernel[grid](*given)  # the interpreter's is None
        else:
            compiled[grid](*given)


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
def _pack(gradient, codes, counts, words, size, FLAGS: tl.constexpr, BLOCK: tl.constexpr):
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
    if FLAGS:
        if missed > 0:
            tl.atomic_add(counts + 1, missed.to(tl.float32))
        if (missed > 0) | (tl.max(packed) > 0):
            tl.store(counts + 2, 1.0)
        if tl.program_id(0) == 0:
            tl.store(counts, 1.0)
    elif missed > 0:
        tl.atomic_add(counts, missed.to(tl.int64))
