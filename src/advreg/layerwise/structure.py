"""Finding the tensor to perturb in whatever a module takes or returns."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

Rebuild = Callable[[Tensor], Any]
Found = tuple[Tensor, Rebuild]


def find_tensor(value: Any) -> Found | None:
    """The first floating-point tensor, scalars aside, in a module's output or a network's input.

    Looks into tuples, named tuples, lists, mappings (model outputs among them) and dataclasses,
    in their own order.

    Returns:
        The tensor, and a function that returns `value` with another tensor in its place and
        leaves the original as it is; None where there is no such tensor.
    """
    if isinstance(value, Tensor):
        usable = value.is_floating_point() and value.dim() > 0
        return (value, lambda new: new) if usable else None
    if isinstance(value, Mapping):
        return _first(value.items(), lambda key, new: _mapping_with(value, key, new))
    if isinstance(value, (tuple, list)):
        return _first(enumerate(value), lambda place, new: _sequence_with(value, place, new))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return _first(fields, lambda name, new: _object_with(value, name, new))
    return None


def whole_of(tensor: Tensor) -> Tensor:
    """The tensor that a view shows all of, as full backward hooks hand it on; else itself."""
    base = tensor._base
    if base is None or base.storage_offset() != tensor.storage_offset():
        return tensor
    alike = base.shape == tensor.shape and base.stride() == tensor.stride()
    return base if alike else tensor


def _first(items: Iterable[tuple[Any, Any]], place: Callable[[Any, Any], Any]) -> Found | None:
    for key, item in items:
        found = find_tensor(item)
        if found is not None:
            return found[0], partial(_placed, place, key, found[1])
    return None


def _placed(place: Callable[[Any, Any], Any], key: Any, rebuild: Rebuild, new: Tensor) -> Any:
    return place(key, rebuild(new))


def _mapping_with(value: Any, key: Any, new: Any) -> Any:
    changed = copy.copy(value)
    changed[key] = new
    return changed


def _sequence_with(value: Any, place: int, new: Any) -> Any:
    items = [*value[:place], new, *value[place + 1 :]]
    if hasattr(value, "_fields"):
        return type(value)(*items)
    return type(value)(items)


def _object_with(value: Any, name: str, new: Any) -> Any:
    changed = copy.copy(value)
    object.__setattr__(changed, name, new)
    return changed
