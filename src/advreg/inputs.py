"""Which tensor is a network's input, and which of what it returns are its logits."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from advreg.errors import DataError, SiteError

Rebuild = Callable[[Tensor], Any]
Found = tuple[Tensor, Rebuild]
"""A tensor, and what returns its container with another tensor in its place."""


# -- tensors in containers -----------------------------------------------------------------------


def find_tensor(value: Any) -> Found | None:
    """The first floating-point tensor, scalars aside, in what a module takes or returns.

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
        return _first(enumerate(value), lambda index, new: _sequence_with(value, index, new))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return _first(fields, lambda name, new: _object_with(value, name, new))
    return None


def _first(items: Iterable[tuple[Any, Any]], put: Callable[[Any, Any], Any]) -> Found | None:
    for key, item in items:
        found = find_tensor(item)
        if found is not None:
            return found[0], partial(_put, put, key, found[1])
    return None


def _put(put: Callable[[Any, Any], Any], key: Any, rebuild: Rebuild, new: Tensor) -> Any:
    return put(key, rebuild(new))


def _mapping_with(value: Any, key: Any, new: Any) -> Any:
    changed = copy.copy(value)
    changed[key] = new
    return changed


def _sequence_with(value: Any, index: int, new: Any) -> Any:
    items = [*value[:index], new, *value[index + 1 :]]
    if hasattr(value, "_fields"):
        return type(value)(*items)
    return type(value)(items)


def _object_with(value: Any, name: str, new: Any) -> Any:
    changed = copy.copy(value)
    object.__setattr__(changed, name, new)
    return changed


# -- the network's input -------------------------------------------------------------------------


def network_input(
    network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str | None = None
) -> Found | None:
    """The network's input among the arguments of one call: see `InputArgument`.

    Args:
        network: The network that is called, not a wrapper around it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        name: The parameter of `forward` that is the input; None is the first.

    Returns:
        The tensor, and a function that returns `(args, kwargs)` with another one in its place.
        None where the input holds no floating-point tensor, as tokens do not, or is not passed.

    Raises:
        SiteError: See `InputArgument.of` and `InputArgument.find`.
    """
    return InputArgument.of(network, name).find(args, kwargs)


@dataclasses.dataclass(frozen=True)
class InputArgument:
    """Which argument of a network's `forward` is its input.

    It is the first parameter in the signature, or the one that the user names: never a label or
    a mask that happens to be the first tensor of a call. Found once a network, it serves every
    call, compiled ones too.

    Attributes:
        name: Of the parameter; None where the signature is `*args` or `**kwargs` alone.
        position: Among positional arguments; None where it is passed by keyword alone.
        keys: Of the mapping that the argument is, from outside inwards.
    """

    name: str | None
    position: int | None
    keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: nn.Module, name: str | None = None) -> InputArgument:
        """The input of a network by the signature of its `forward`.

        Args:
            network: Whose `forward`, a wrapped one too, is read.
            name: A parameter, or `parameter.key` for an entry of a mapping; None is the first.

        Raises:
            SiteError: There is no such parameter.
        """
        parameters = _parameters(network.forward)
        kinds = dict(parameters)
        by_keyword = inspect.Parameter.VAR_KEYWORD in kinds.values()
        if name is None:
            if not parameters:
                return cls(None, None)
            first, kind = parameters[0]
            return cls(*_reached(first, kind, 0))
        head, *keys = name.split(".")
        for position, (parameter, kind) in enumerate(parameters):
            if parameter == head and kind != inspect.Parameter.VAR_KEYWORD:
                return cls(*_reached(parameter, kind, position), tuple(keys))
        if by_keyword:
            return cls(head, None, tuple(keys))
        raise SiteError(
            f"{type(network).__name__}.forward has no parameter {head!r}; choose input_name from:"
            f" {', '.join(kinds) or 'none, it takes no argument'}."
        )

    def find(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Found | None:
        """The input's floating-point tensor in one call, see `network_input`.

        Raises:
            SiteError: Several keywords of a `**kwargs` alone, or several entries of a mapping,
                hold such tensors, and none is named.
        """
        if self.position is not None and self.position < len(args):
            found = _within(args[self.position], self.keys, self.name)
            if found is None:
                return None
            before, rebuild, after = args[: self.position], found[1], args[self.position + 1 :]
            return found[0], lambda new: ((*before, rebuild(new), *after), kwargs)
        if self.name is not None:
            key = self.name
        elif kwargs and not args:
            # The order of keywords is the caller's and says nothing about the network.
            keys = [key for key, value in kwargs.items() if find_tensor(value) is not None]
            if len(keys) > 1:
                raise SiteError(
                    f"The network is called with several floating-point tensors"
                    f" ({', '.join(keys)}); say which is the input, such as input_name={keys[0]!r}."
                )
            if not keys:
                return None
            key = keys[0]
        else:
            return None
        if key not in kwargs:
            return None
        found = _within(kwargs[key], self.keys, key)
        if found is None:
            return None
        return found[0], lambda new: (args, {**kwargs, key: found[1](new)})


def _reached(name: str, kind: Any, position: int) -> tuple[str | None, int | None]:
    """How an argument is passed: by which keyword, and at which position."""
    if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        return None, position if kind == inspect.Parameter.VAR_POSITIONAL else None
    if kind == inspect.Parameter.KEYWORD_ONLY:
        return name, None
    return name, position


def _within(value: Any, keys: tuple[str, ...], name: str | None) -> Found | None:
    if keys:
        if not isinstance(value, Mapping) or keys[0] not in value:
            held = ", ".join(map(str, value)) if isinstance(value, Mapping) else "no mapping"
            raise SiteError(f"The network's input has no entry {keys[0]!r}, it holds: {held}.")
        found = _within(value[keys[0]], keys[1:], name)
        if found is None:
            return None
        return found[0], lambda new: _mapping_with(value, keys[0], found[1](new))
    if isinstance(value, Mapping):
        several = [str(key) for key, item in value.items() if find_tensor(item) is not None]
        if len(several) > 1:
            raise SiteError(
                f"The network's input is a mapping with several floating-point tensors"
                f" ({', '.join(several)}); say which is the input, such as"
                f" input_name={f'{name}.{several[0]}'!r}."
            )
    return find_tensor(value)


_Parameters = list[tuple[str, Any]]

_SIGNATURES: weakref.WeakKeyDictionary[Any, _Parameters] = weakref.WeakKeyDictionary()


def _parameters(forward: Callable[..., Any]) -> _Parameters:
    """Names and kinds of the parameters after `self`, read once a function."""
    function = getattr(forward, "__func__", forward)
    try:
        if function in _SIGNATURES:
            return _SIGNATURES[function]
    except TypeError:  # a callable without weak references is read each time
        return _read(forward)
    found = _read(forward)
    _SIGNATURES[function] = found
    return found


def _read(forward: Callable[..., Any]) -> _Parameters:
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):  # written in another language than Python
        return [("args", inspect.Parameter.VAR_POSITIONAL)]
    return [(parameter.name, parameter.kind) for parameter in signature.parameters.values()]


# -- what a network returns ----------------------------------------------------------------------


def logits_of(output: Any) -> Tensor:
    """The logits in what a network returns.

    Args:
        output: A floating-point tensor (B, K), (B,), (B, 1) or (B, K, ...), or a tuple, mapping,
            dataclass or model output that holds one: its `logits` where it has some, otherwise
            the first such tensor.

    Raises:
        DataError: There is none.
    """
    named = output.get("logits") if isinstance(output, Mapping) else None
    if named is None and not isinstance(output, Tensor):
        named = getattr(output, "logits", None)
    found = find_tensor(output if named is None else named)
    if found is None:
        what = f"{output.dtype}" if isinstance(output, Tensor) else type(output).__name__
        raise DataError(
            f"The network returns {what} without logits; give one that returns floating-point"
            " logits, one row an example."
        )
    return found[0]
