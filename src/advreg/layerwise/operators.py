"""Packing as an operator that a compiler can call from its graph, for the CPU.

A compiler's own code unpacks bits well there and packs them slowly (`benchmarks/designs.py
--compile`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.layerwise import kernels
from advreg.layerwise.planes import EIGHT, empty_codes, pack_rows
from advreg.layerwise.signs import chunks, inverse, lies_in, order_of


def _sign(gradient: Tensor, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
    codes, counts = empty_codes(gradient, rows, capacity), torch.ones(2, device="cpu")
    order = order_of(codes)
    if not lies_in(gradient, order):
        gradient = gradient.permute(order).contiguous().permute(inverse(order))
    bad = kernels.planes(gradient, codes, chunks(gradient.shape, order, rows), capacity)
    if bad is None:
        packed, missed = pack_rows(gradient, rows, capacity)
        codes.copy_(packed)
        bad = int(missed)
    counts[1] = bad
    return codes.view(EIGHT), counts


def _sign_shape(gradient: Tensor, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
    codes = empty_codes(gradient, rows, capacity)
    return torch.empty_like(codes, dtype=EIGHT), gradient.new_empty(2, dtype=torch.float32)


# Without a fixed layout the compiler hands over a tensor in the layout that it has.
_LIBRARY = torch.library.Library("advreg", "DEF")
_LIBRARY.define(
    "sign(Tensor gradient, int rows, int capacity) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)
_LIBRARY.impl("sign", _sign, "CPU")
torch.library.register_fake("advreg::sign", _sign_shape, lib=_LIBRARY)

sign = torch.ops.advreg.sign.default
"""A gradient's codes as `pack_rows` makes them, and a door's counts."""
