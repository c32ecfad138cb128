"""The operators on packed signs, and the layout of these, for eager and compiled code."""

from advreg.layerwise.kernels import buffers
from advreg.layerwise.kernels.layout import (
    CARRIER_DTYPE,
    Order,
    as_differentiable,
    compiled_order,
    from_differentiable,
    inverse,
    order_of,
    packs_by_operator,
    word_of,
    words_for,
)
from advreg.layerwise.kernels.operators import (
    add_signs,
    added_signs,
    pack_and_count,
    pack_in_graph,
    pack_signs,
    register_decompositions,
    round_towards,
)

__all__ = [
    "CARRIER_DTYPE",
    "Order",
    "add_signs",
    "added_signs",
    "as_differentiable",
    "buffers",
    "compiled_order",
    "from_differentiable",
    "inverse",
    "order_of",
    "pack_and_count",
    "pack_in_graph",
    "pack_signs",
    "packs_by_operator",
    "register_decompositions",
    "round_towards",
    "word_of",
    "words_for",
]
