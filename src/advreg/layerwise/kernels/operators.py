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
advreg::round_towards(Tensor anchor, Tensor values) -> Tensor
    `advreg.tensors.round_towards` of an anchor in half precision: an operator, since compilers
    leave roundings between fused steps out. The gradient is handed on to the values as it is.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from advreg import _torch_compat, tensors
from advreg._torch_compat import below_autograd, dispatch_modes
from advreg.errors import UnsupportedError
from advreg.layerwise.kernels import cpu, cuda, plain
from advreg.layerwise.kernels.layout import (
    Order,
    as_differentiable,
    packs_by_operator,
    word_of,
)

_LIBRARY = torch.library.Library("advreg", "DEF")
_LIBRARY.define(
    "add_signs(Tensor activation, Tensor codes, Tensor? rms, float epsilon, int[] order,"
    " float low, float high) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    "round_towards(Tensor anchor, Tensor values) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
# Without a fixed layout compilers hand over a gradient in the layout that it has.
_LIBRARY.define(
    "pack_signs(Tensor gradient, int[] order, SymInt words, SymInt groups) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout),
)
_LIBRARY.impl("add_signs", plain.add_signs, "CompositeExplicitAutograd")
_LIBRARY.impl("pack_signs", plain.pack_signs, "CompositeExplicitAutograd")
_LIBRARY.impl("round_towards", tensors.round_towards, "CompositeExplicitAutograd")
for _device, _kernels in (("CPU", cpu), ("CUDA", cuda)):
    _LIBRARY.impl("add_signs", _kernels.add_signs, _device)
    _LIBRARY.impl("pack_signs", _kernels.pack_signs, _device)

add_signs = torch.ops.advreg.add_signs.default
pack_signs = torch.ops.advreg.pack_signs.default
round_towards = torch.ops.advreg.round_towards.default
_OPERATORS = SimpleNamespace(add_signs=add_signs, pack_signs=pack_signs)


def _added(activation: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(activation)


def _packed(gradient: Tensor, order: Order, words: int, groups: int) -> tuple[Tensor, Tensor]:
    codes = gradient.new_empty((groups, words), dtype=word_of(gradient.device))
    return codes, gradient.new_empty(3, dtype=torch.float32)


torch.library.register_fake("advreg::add_signs", _added, lib=_LIBRARY)
torch.library.register_fake("advreg::pack_signs", _packed, lib=_LIBRARY)
torch.library.register_fake(
    "advreg::round_towards", lambda anchor, values: torch.empty_like(anchor), lib=_LIBRARY
)
torch.library.register_autograd(
    "advreg::round_towards", lambda ctx, gradient: (None, tensors.wide(gradient)), lib=_LIBRARY
)


class _AddSigns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        with below_autograd():
            return add_signs(*args)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return *gradients, None, None, None, None, None, None


def _with_gradient(*args: Any) -> Tensor:
    """As `torch.library.register_autograd` does it, in half as many calls."""
    if not (torch.is_grad_enabled() and args[0].requires_grad):
        with below_autograd():
            return add_signs(*args)
    if args[-2:] != (-math.inf, math.inf):
        raise UnsupportedError(
            "advreg::add_signs has no gradient under limits; clamp its result instead."
        )
    perturbed: Tensor = _AddSigns.apply(*args)
    return perturbed


_LIBRARY.impl("add_signs", _with_gradient, "Autograd")
_LIBRARY.impl("pack_signs", torch.library.fallthrough_kernel, "Autograd")  # it has no gradient


def added_signs(
    activation: Tensor,
    codes: Tensor,
    rms: Tensor | None,
    epsilon: float,
    order: Order,
    low: float,
    high: float,
) -> Tensor:
    """`add_signs` in eager code, past the dispatcher wherever nothing else wants to see it."""
    add = add_signs if torch.is_grad_enabled() else _direct(activation).add_signs
    perturbed: Tensor = add(activation, codes, rms, epsilon, order, low, high)
    return perturbed


def pack_and_count(
    gradient: Tensor, order: Order, words: int, groups: int, nonfinite: Tensor | int
) -> tuple[Tensor, Tensor | int]:
    """`pack_signs` in eager code, which adds what is not finite to a count.

    Args:
        gradient: Without a gradient of its own.
        order: As of `pack_signs`.
        words: As of `pack_signs`.
        groups: As of `pack_signs`.
        nonfinite: The count so far; on a GPU it may be changed in place, which waits for nothing.

    Returns:
        The codes, and the new count: on a GPU a scalar of int64.
    """
    kernels = _direct(gradient)
    if kernels is cuda:
        return cuda.pack_and_count(gradient, order, words, groups, nonfinite)
    codes, counts = kernels.pack_signs(gradient, order, words, groups)
    return codes, nonfinite + (int(counts[1]) if counts.is_cpu else counts[1].long())


def _direct(tensor: Tensor) -> Any:
    """What computes the operators for a plain tensor that no mode, such as a tracer, sees."""
    if type(tensor) is Tensor and not dispatch_modes():
        if tensor.is_cpu:
            return cpu
        if tensor.is_cuda:
            return cuda
    return _OPERATORS


def register_decompositions() -> None:
    """Gives inductor `plain.add_signs`, to fuse with the layers around it; call it when tracing.

    Other compilers call the operator. Registering again changes nothing.
    """
    _torch_compat.decompose_in_inductor(add_signs, plain.add_signs)


def pack_in_graph(
    gradient: Tensor, order: Order, words: int, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """`pack_signs` as code that is compiled has it: differentiable codes, and counts.

    A CPU's compiler would fuse the plain definition with too much and read from too many places
    at once; it calls the operator. Others fuse it well.
    """
    pack: Any = pack_signs if packs_by_operator(gradient.device) else plain.pack_signs
    codes, counts = pack(gradient, order, words, groups)
    return as_differentiable(codes), counts
