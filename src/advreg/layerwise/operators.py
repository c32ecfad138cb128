"""Packing as an operator that a compiler can call from its graph, for the CPU.

A compiler's own code unpacks bits well there; packing them it fuses with too much and reads from
too many places at once (`benchmarks/designs.py --compile`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.layerwise import old_kernels as kernels
from advreg.layerwise.planes import carrier, in_order, pack_rows, word_of, words_for


def _sign(gradient: Tensor, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
    codes = _empty(gradient, rows, capacity)
    counts = torch.empty(3, dtype=torch.float32, device=gradient.device)
    if not kernels.words(in_order(gradient, rows).contiguous(), codes, counts):
        codes, counts = pack_rows(gradient, rows, capacity)
    return carrier(codes), counts


def _sign_shape(gradient: Tensor, rows: int, capacity: int) -> tuple[Tensor, Tensor]:
    counts = gradient.new_empty(3, dtype=torch.float32)
    return carrier(_empty(gradient, rows, capacity)), counts


def _empty(gradient: Tensor, rows: int, capacity: int) -> Tensor:
    word = word_of(gradient.device)
    size = words_for(gradient.shape, rows, capacity, word)
    return torch.empty(size, dtype=word, device=gradient.device)


# Compilers keep graphs on disk, so that another form of the results wants another name. Without a
# fixed layout they hand over a tensor in the layout that it has.
_LIBRARY = torch.library.Library("advreg", "FRAGMENT")
_LIBRARY.define(
    "sign_words_3(Tensor gradient, int rows, int capacity) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)
_LIBRARY.impl("sign_words_3", _sign, "CPU")
torch.library.register_fake("advreg::sign_words_3", _sign_shape, lib=_LIBRARY)

sign = torch.ops.advreg.sign_words_3.default
"""A gradient's codes as `pack_rows` makes them, and a door's counts."""
