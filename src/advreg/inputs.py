"""What goes into a network and what comes out of it: the one place that says what is accepted."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import AdvregError, ConfigurationError, DataError, SiteError

Rebuild = Callable[[Tensor], Any]
Found = tuple[Tensor, Rebuild]
"""A tensor, and what returns its container with another tensor in its place."""

Range = tuple[float, float]
"""The lowest and the highest value that an input may have."""

ROUNDING = 1e-4
"""How far beside its range, in units of the range, rounding may put a value."""


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


def check_logits(outputs: Tensor) -> None:
    """Refuses outputs, (B, K, ...), that are probabilities where logits are needed.

    A softmax before the cross entropy's own flattens the loss, and gradient attacks fail on it.

    Raises:
        ConfigurationError: Every row lies in [0, 1] and sums to one.
    """
    if outputs.ndim < 2 or outputs.shape[1] == 1:
        return
    rows = outputs.detach().double()
    if not rows.numel() or not ((rows >= 0) & (rows <= 1 + ROUNDING)).all():
        return
    if ((rows.sum(1) - 1).abs() < ROUNDING).all():
        raise ConfigurationError(
            "The model returns probabilities: every row lies in [0, 1] and sums to one;"
            " give the model that returns logits, without its softmax."
        )


def check_log_probabilities(outputs: Tensor) -> None:
    """Refuses outputs, (B, K, ...), that are not the logarithms of probabilities.

    The negative log-likelihood of logits has no lower bound, and training ends in NaN.

    Raises:
        ConfigurationError: The exponentials of a row do not sum to one.
    """
    sums = outputs.detach().float().exp().sum(1)
    if not ((sums - 1).abs() < 1e-2).all():
        raise ConfigurationError(
            "NLLLoss takes log-probabilities and the model returns logits; use"
            " nn.CrossEntropyLoss, or end the model with nn.LogSoftmax(1)."
        )


def check_no_sigmoid(outputs: Tensor) -> None:
    """Refuses logits of yes and no that have been through a sigmoid, where autograd says so.

    A second one maps [0, 1] to [0.5, 0.73]: every answer is yes.

    Args:
        outputs: With the graph that made them; without one, nothing is known.

    Raises:
        ConfigurationError: A sigmoid was the last thing that was computed.
    """
    made_by = outputs.grad_fn
    while made_by is not None and made_by.name().startswith(_SAME_VALUES):
        made_by = made_by.next_functions[0][0]
    if made_by is not None and made_by.name().startswith("Sigmoid"):
        raise ConfigurationError(
            "The model returns probabilities, of a sigmoid; give the model that returns logits,"
            " without its sigmoid."
        )


_SAME_VALUES = ("View", "Squeeze", "Unsqueeze", "Select", "Reshape", "Alias", "ToCopy", "Unsafe")
"""How the names of autograd's nodes begin that only rearrange values."""


# -- inputs and budgets --------------------------------------------------------------------------


def check_range(input_range: Any, name: str = "input_range") -> Range | None:
    """Reads a range of inputs.

    Args:
        input_range: Two numbers, or None for no limits.
        name: The setting, for the message.

    Raises:
        ConfigurationError: It is no pair of finite numbers, the low end first.
    """
    if input_range is None:
        return None
    try:
        low, high = (float(end) for end in input_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigurationError(
            f"{name} is {input_range!r}; give its low end, then its high end, such as (0, 1)."
        )
    return low, high


@contextmanager
def types_explained(model: nn.Module, inputs: Tensor) -> Iterator[None]:
    """Turns torch's error for inputs of another type than the network's into one sentence.

    Raises:
        ConfigurationError: The inputs have a type that no parameter has, and an operation failed
            for that.
    """
    try:
        yield
    except RuntimeError as error:
        types = {one.dtype for one in model.parameters() if one.is_floating_point()}
        strange = bool(types) and inputs.dtype not in types and "type" in str(error).lower()
        if isinstance(error, AdvregError) or not strange:
            raise
        names = " and ".join(sorted(map(str, types)))
        raise ConfigurationError(
            f"The inputs are {inputs.dtype} and the network's parameters {names}; convert one to"
            " the other, as inputs.to(torch.float32) does."
        ) from error


def check_tensor(name: str, value: Any) -> None:
    """Refuses what is no tensor.

    Raises:
        DataError: It is another thing, such as an array or a list.
    """
    if not isinstance(value, Tensor):
        raise DataError(
            f"The {name} are {type(value).__name__}; give a tensor, as torch.as_tensor makes one."
        )


def check_inputs(inputs: Tensor, input_range: Range | None) -> None:
    """Refuses inputs that a perturbation would not fit, and that clamping would change.

    Args:
        inputs: (B, ...).
        input_range: Where they must lie; None for anywhere.

    Raises:
        ConfigurationError: They are integers, none, not finite, or outside the range, as
            images are that were normalised already, or bytes as floats.
    """
    check_tensor("inputs", inputs)
    if not inputs.numel():
        raise ConfigurationError(
            f"The inputs are empty, {tuple(inputs.shape)}; give at least one example."
        )
    if not inputs.is_floating_point():
        raise ConfigurationError(
            f"The inputs are {inputs.dtype}; convert images to floating point and scale them to"
            " their range; of tokens perturb the embeddings, by method 'layerwise' at their module"
            " as a site, or by giving a network that takes inputs_embeds these as the inputs."
        )
    least, most = (float(value) for value in torch.aminmax(inputs.detach()))
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ConfigurationError(
            f"The inputs run from {least:g} to {most:g}; give finite ones, without NaN."
        )
    if input_range is None:
        return
    low, high = input_range
    lowest, highest = widened(input_range, inputs.dtype)
    if not (least >= lowest and most <= highest):
        raise ConfigurationError(
            f"The inputs run from {least:g} to {most:g}, outside the range from {low:g}"
            f" to {high:g}; scale them to it and normalise inside the model, or give input_range."
        )


def widened(input_range: Range, dtype: torch.dtype) -> Range:
    """A range with what rounding may have moved inputs of a type outside of it."""
    low, high = input_range
    # Rounding to half precision moves an end of the range as well.
    slack = ROUNDING * (high - low) + torch.finfo(dtype).eps * max(abs(low), abs(high)) / 2
    return low - slack, high + slack


def check_targets(inputs: Tensor, targets: Tensor) -> None:
    """Refuses targets that cannot belong to the inputs, whatever they mean.

    Args:
        inputs: (B, ...).
        targets: One an example, in any form; `advreg.losses` knows what they mean.

    Raises:
        DataError: They are not one an example, or complex.
    """
    check_tensor("inputs", inputs)
    check_tensor("targets", targets)
    if not targets.ndim or len(targets) != len(inputs) or targets.is_complex():
        raise DataError(
            f"There are {len(inputs)} inputs and the targets are {targets.dtype} of shape"
            f" {tuple(targets.shape)}; give one target for each input."
        )


def check_budget(epsilon: float, input_range: Range | None, diameter: float = 1.0) -> None:
    """Refuses a budget in another unit than the inputs, 8 instead of 8/255.

    Args:
        epsilon: The budget.
        input_range: Of the inputs; None for no limits.
        diameter: The longest way between two inputs whose values span one unit, in the budget's
            norm.

    Raises:
        ConfigurationError: It reaches farther than the whole range.
    """
    if input_range is None:
        return
    low, high = input_range
    if epsilon > (high - low) * diameter:
        raise ConfigurationError(
            f"epsilon is {epsilon:g}, wider than the whole input range from {low:g} to {high:g};"
            f" give it in the unit of the input, such as {epsilon:g}/255 instead of {epsilon:g}."
        )
