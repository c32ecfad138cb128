"""The two passes over a site's data as operators, for eager and compiled code alike.

advreg::add_signs(Tensor activation, Tensor codes, Tensor? rms, float epsilon, int[] order,
                  float low, float high) -> Tensor
    activation + (epsilon * rms) * signs, clamped: a new tensor of the activation's strides.
    The codes are (groups, words) as `layout` describes them, for as many rows or more; rms is
    a scalar of float32 or float64, or None for one. The factor is rounded to the activation's
    type, within its finite numbers, so that a zero leaves a value as it is. Limits of -inf and
    inf do not clamp, and NaN stays. The gradient is handed on as it is; with limits there is
    none.
advreg::pack_signs(Tensor gradient, int[] order, SymInt words, SymInt groups)
        -> (Tensor codes, Tensor counts)
    The signs of a gradient; zeros for what is not finite and for the rows that are missing.
    The counts are (3,) of float32: one, how many values were not finite, and whether any value
    was not zero.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from advreg.errors import UnsupportedError
from advreg.layerwise.kernels import cpu, plain
from advreg.layerwise.kernels.layout import Order, packs_by_operator, word_of

_LIBRARY = torch.library.Library("advreg", "FRAGMENT")
_LIBRARY.define(
    "add_signs(Tensor activation, Tensor codes, Tensor? rms, float epsilon, int[] order,"
    " float low, float high) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# Without a fixed layout compilers hand over a gradient in the layout that it has.
_LIBRARY.define(
    "pack_signs(Tensor gradient, int[] order, SymInt words, SymInt groups) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)
_LIBRARY.impl("add_signs", plain.add_signs, "CompositeExplicitAutograd")
_LIBRARY.impl("pack_signs", plain.pack_signs, "CompositeExplicitAutograd")
_LIBRARY.impl("add_signs", cpu.add_signs, "CPU")
_LIBRARY.impl("pack_signs", cpu.pack_signs, "CPU")

add_signs = torch.ops.advreg.add_signs.default
pack_signs = torch.ops.advreg.pack_signs.default


def _added(activation: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(activation)


def _packed(gradient: Tensor, order: Order, words: int, groups: int) -> tuple[Tensor, Tensor]:
    codes = gradient.new_empty((groups, words), dtype=word_of(gradient.device))
    return codes, gradient.new_empty(3, dtype=torch.float32)


torch.library.register_fake("advreg::add_signs", _added, lib=_LIBRARY)
torch.library.register_fake("advreg::pack_signs", _packed, lib=_LIBRARY)


class _AddSigns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return add_signs(*args)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return *gradients, None, None, None, None, None, None


def _with_gradient(*args: Any) -> Tensor:
    """As `torch.library.register_autograd` does it, in half as many calls."""
    if not (torch.is_grad_enabled() and args[0].requires_grad):
        with torch._C._AutoDispatchBelowAutograd():
            return add_signs(*args)
    if args[-2:] != (-math.inf, math.inf):
        raise UnsupportedError(
            "advreg::add_signs has no gradient under limits; clamp its result instead."
        )
    perturbed: Tensor = _AddSigns.apply(*args)
    return perturbed


_LIBRARY.impl("add_signs", _with_gradient, "Autograd")
_LIBRARY.impl("pack_signs", torch.library.fallthrough_kernel, "Autograd")  # it has no gradient


def register_decompositions() -> None:
    """Gives inductor the plain definitions, to fuse with the layers around them; call it often.

    A CPU's packing stays an operator: of a compiler's own code for it, which is fused with too much
    and reads from too many places at once, the time was higher.
    """
    from torch._inductor import decomposition

    if add_signs in decomposition.decompositions:
        return
    ours: dict[Any, Any] = {add_signs: plain.add_signs, pack_signs: _pack_in_graph}
    decomposition.decompositions.update(ours)
    decomposition.fast_random_decomps().update(ours)  # a copy that an earlier compilation has made


def _pack_in_graph(gradient: Tensor, *form: Any) -> Any:
    if packs_by_operator(gradient.device):
        return NotImplemented
    return plain.pack_signs(gradient, *form)
