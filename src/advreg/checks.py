"""What inputs, targets, budgets and outputs are accepted: everything else is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import AdvregError, ConfigurationError, DataError

Range = tuple[float, float]
"""The lowest and the highest value that an input may have."""

ROUNDING = 1e-4
"""How far beside its range, in units of the range, rounding may put a value."""


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
