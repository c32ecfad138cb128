"""The two passes over a site's data on a GPU, in Triton; see `packing` for the format.

A tensor is `outer` groups of `rows` chunks of `inner` values that lie side by side, a chunk some
blocks of 256 values. A program takes `TILE` blocks of one chunk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

TILE = 16
"""Blocks a program: 4,096 values, so that each thread of four warps reads whole vectors."""


def add(
    activation: Tensor,
    codes: Tensor,
    chunks: tuple[int, int, int],
    scale: Tensor | float,
    limits: tuple[float, float] | None,
) -> Tensor:
    """A new tensor: the activation plus `scale` times the signs of its first rows, clamped.

    Args:
        activation: Its values lie side by side, in the chunks' order.
        codes: (outer, n <= rows, ceil(inner / 4)) uint8, side by side but for the groups.
        chunks: Groups, rows and values a row in a group.
        scale: A number or a scalar tensor.
        limits: The range to clamp to.
    """
    perturbed = torch.empty_like(activation)
    low, high = limits or (0.0, 0.0)
    with torch.cuda.device_of(activation):  # Triton asks for the current one
        _add[_grid(chunks)](
            *(activation, codes, perturbed, scale, low, high),
            *(chunks[1], chunks[2], codes.shape[1], codes.stride(0)),
            SCALE_IS_TENSOR=isinstance(scale, Tensor),
            CLAMPS=limits is not None,
            WHOLE=chunks[2] % 256 == 0,
            TILE=TILE,
        )
    return perturbed


def sign(gradient: Tensor, codes: Tensor, chunks: tuple[int, int, int], counted: Tensor) -> None:
    """Writes the signs of a gradient; those of values that are not finite are zero.

    Args:
        gradient: Its values lie side by side, in the chunks' order.
        codes: (outer, rows, ceil(inner / 4)) uint8, side by side but for the groups.
        chunks: Of the gradient.
        counted: An int64 scalar, to which the number of values that are not finite is added.
    """
    with torch.cuda.device_of(gradient):
        _sign[_grid(chunks)](
            *(gradient, codes, counted, chunks[1], chunks[2], codes.stride(0)),
            WHOLE=chunks[2] % 256 == 0,
            TILE=TILE,
        )


def _grid(chunks: tuple[int, int, int]) -> tuple[int]:
    outer, rows, inner = chunks
    return (outer * rows * triton.cdiv(inner, 256 * TILE),)


@triton.jit
def _place(rows, inner, stride, WHOLE: tl.constexpr, TILE: tl.constexpr):
    """A program's row, first value and first byte; its bytes' places, and which there are."""
    tiles = tl.cdiv(inner, 256 * TILE)
    chunk = tl.program_id(0).to(tl.int64) // tiles
    block = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)[:, None]
    left = tl.minimum(tl.maximum(inner - 256 * block, 0), 256)  # values of each block
    byte = tl.arange(0, 64)[None, :]
    if WHOLE:  # which lets a thread read its values as one vector
        width = 64
        there = tl.broadcast_to(left > 0, [TILE, 64])
    else:
        width = (left + 3) // 4  # bytes of each block
        there = byte < width
    row = chunk % rows
    codes_at = chunk // rows * stride + row * ((inner + 3) // 4) + 64 * block + byte
    values_at = chunk * inner + 256 * block + byte
    return row, values_at, codes_at, left, width, byte, there


@triton.jit
def _add(
    activation,
    codes,
    perturbed,
    scale,
    low,
    high,
    rows,
    inner,
    kept,
    stride,
    SCALE_IS_TENSOR: tl.constexpr,
    CLAMPS: tl.constexpr,
    WHOLE: tl.constexpr,
    TILE: tl.constexpr,
):
    row, values_at, codes_at, left, width, byte, there = _place(rows, inner, stride, WHOLE, TILE)
    packed = tl.load(codes + codes_at, mask=there, other=0).to(tl.int32)
    kind = activation.dtype.element_ty
    delta = tl.load(scale) if SCALE_IS_TENSOR else scale
    delta = tl.cast(tl.cast(delta, kind), tl.float32)
    delta = tl.where(row < kept, delta, 0.0)
    for k in tl.static_range(4):
        inside = there if WHOLE else there & (byte + k * width < left)
        code = packed >> 2 * k
        step = ((code & 1) - (code & 2)).to(tl.float32) * delta
        total = tl.load(activation + values_at + k * width, mask=inside).to(tl.float32) + step
        if CLAMPS:  # comparisons with NaN are false, so that NaN stays
            total = tl.where(total < low, low, total)
            total = tl.where(total > high, high, total)
        tl.store(perturbed + values_at + k * width, total.to(kind), mask=inside)


@triton.jit
def _sign(
    gradient,
    codes,
    counted,
    rows,
    inner,
    stride,
    WHOLE: tl.constexpr,
    TILE: tl.constexpr,
):
    _, values_at, codes_at, left, width, byte, there = _place(rows, inner, stride, WHOLE, TILE)
    packed = tl.zeros([TILE, 64], tl.int32)
    bad = tl.zeros([TILE, 64], tl.int32)
    for k in tl.static_range(4):
        inside = there if WHOLE else there & (byte + k * width < left)
        values = tl.load(gradient + values_at + k * width, mask=inside, other=0.0).to(tl.float32)
        # Infinity less itself is NaN, and NaN is equal to nothing.
        finite = values - values == 0
        bad += tl.where(finite, 0, 1)
        code = tl.where(values > 0, 1, tl.where(values < 0, 3, 0))
        packed |= tl.where(finite, code, 0) << 2 * k
    tl.store(codes + codes_at, packed.to(tl.uint8), mask=there)
    missed = tl.sum(bad)
    if missed > 0:
        tl.atomic_add(counted, missed.to(tl.int64))
