"""Finding the tensor that a hook is given a view of."""

from __future__ import annotations

from torch import Tensor

from advreg.inputs import Found, Rebuild, find_tensor

__all__ = ["Found", "Rebuild", "find_tensor", "whole_of"]


def whole_of(tensor: Tensor) -> Tensor:
    """The tensor that a view shows all of, as full backward hooks hand it on; else itself."""
    base = tensor._base
    if base is None or base.storage_offset() != tensor.storage_offset():
        return tensor
    alike = base.shape == tensor.shape and base.stride() == tensor.stride()
    return base if alike else tensor
