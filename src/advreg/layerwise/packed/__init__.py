"""Ternary memories, packed to two bits a value; `kernels` has their layout and operators."""

from advreg.layerwise.kernels import (
    CARRIER_DTYPE,
    Order,
    as_differentiable,
    compiled_order,
    from_differentiable,
    order_of,
    packs_by_operator,
    word_of,
    words_for,
)
from advreg.layerwise.packed.words import PackedWords

__all__ = [
    "CARRIER_DTYPE",
    "Order",
    "PackedWords",
    "as_differentiable",
    "compiled_order",
    "from_differentiable",
    "order_of",
    "packs_by_operator",
    "word_of",
    "words_for",
]
