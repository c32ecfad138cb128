"""Seeing and saying what would make an attack meaningless."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from advreg.attacks.threat import Threat
from advreg.errors import ConfigurationError

Range = tuple[float, float]
"""The lowest and the highest value that an input may have."""

ROUNDING = 1e-4
"""How far beside its range or its sum rounding may put a value."""


def at_least_one(**counts: int) -> None:
    """Refuses counts under one.

    Raises:
        ConfigurationError: A count is not an integer of at least 1.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"{name} is {count!r}; give an integer of at least 1.")


def within_range(threat: Threat, inputs: Tensor, input_range: Range | None) -> None:
    """Refuses a budget in another unit than the inputs, 8 instead of 8/255.

    Raises:
        ConfigurationError: epsilon reaches farther than the whole input range.
    """
    if input_range is None:
        return
    low, high = input_range
    if threat.epsilon > (high - low) * threat.diameter(inputs):
        raise ConfigurationError(
            f"{threat!r} is wider than the whole input range from {low:g} to {high:g};"
            " give epsilon in the unit of the input, such as 8/255 instead of 8."
        )


def inputs_within(inputs: Tensor, input_range: Range | None) -> None:
    """Refuses inputs that are not floating point, or lie outside the range they are clamped to.

    Raises:
        ConfigurationError: They are integers, normalised already, bytes as floats, or not numbers.
    """
    if not inputs.is_floating_point():
        raise ConfigurationError(
            f"The inputs to attack are {inputs.dtype}; convert them to floating point."
        )
    if input_range is None or not inputs.numel():
        return
    low, high = input_range
    least, most = (float(value) for value in torch.aminmax(inputs.detach()))
    slack = ROUNDING * (high - low)
    if not (least >= low - slack and most <= high + slack):
        raise ConfigurationError(
            f"The inputs to attack run from {least:g} to {most:g}, outside the range from {low:g}"
            f" to {high:g}; scale them to it and normalise inside the model, or give input_range."
        )


def statistics_stay(model: nn.Module) -> None:
    """Refuses a model whose batch statistics every pass of an attack would change.

    A model in training mode is attacked all the same where these are frozen: training methods do.

    Raises:
        ConfigurationError: A batch normalisation layer is in training mode and would remember.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            raise ConfigurationError(
                "The model is in training mode and an attack would change its batch statistics;"
                " call model.eval() first, or freeze them with advreg.modes.frozen_statistics."
            )


def in_evaluation_mode(model: nn.Module) -> None:
    """Refuses a model that is not the deployed one.

    Raises:
        ConfigurationError: A part of the model is in training mode.
    """
    if any(module.training for module in model.modules()):
        raise ConfigurationError(
            "The model is in training mode, which is not the one that is deployed;"
            " call model.eval() before the attack."
        )


def not_probabilities(outputs: Tensor) -> None:
    """Refuses outputs, (B, K), that are probabilities where logits are needed.

    A softmax before the cross entropy's own flattens the loss, and gradient attacks fail on it.

    Raises:
        ConfigurationError: Every row lies in [0, 1] and sums to one.
    """
    rows = outputs.detach().double()
    if not len(rows) or not ((rows >= 0) & (rows <= 1 + ROUNDING)).all():
        return
    if ((rows.sum(1) - 1).abs() < ROUNDING).all():
        raise ConfigurationError(
            "The model returns probabilities: every row lies in [0, 1] and sums to one;"
            " give the model that returns logits, without its softmax."
        )
