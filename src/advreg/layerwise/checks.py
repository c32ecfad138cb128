"""What an adversary's settings may be, and how they are shown."""

from __future__ import annotations

import inspect
from typing import Any

from advreg.errors import ConfigurationError
from advreg.layerwise.budget import SHARES
from advreg.layerwise.directions import DIRECTIONS
from advreg.layerwise.memory import MEMORIES, STARTS


def check_settings(adversary: Any) -> None:
    """Refuses a setting that cannot work, naming the mend.

    Raises:
        ConfigurationError: There is one.
    """
    choices = {"memory": MEMORIES, "direction": DIRECTIONS, "start": STARTS}
    for name, known in choices.items():
        if getattr(adversary, name) not in known:
            raise ConfigurationError(
                f"{name} is {getattr(adversary, name)!r}; choose one of {', '.join(known)}."
            )
    if adversary.budget_split is not None and adversary.budget_split not in SHARES:
        raise ConfigurationError(
            f"budget_split is {adversary.budget_split!r}; choose one of {', '.join(SHARES)}, or leave it out."
        )
    if adversary.step_size is not None and adversary.direction != "sign":
        raise ConfigurationError(
            f"step_size accumulates signs, not direction={adversary.direction!r};"
            ' use direction="sign" or leave step_size out.'
        )
    for name, least in {"batch_dim": 0, "rms_interval": 1, "warmup": 0, "examples": 1}.items():
        value = getattr(adversary, name)
        if value is not None and value < least:
            raise ConfigurationError(f"{name} is {value}; give at least {least}.")
    limits = adversary.input_range
    if limits is not None and not limits[0] < limits[1]:
        raise ConfigurationError(f"input_range is {limits}; give its low end, then its high end.")


def check_unit(epsilon: float, limits: tuple[float, float] | None) -> None:
    """Refuses an absolute budget that no input can use up.

    Raises:
        ConfigurationError: It is larger than the range of inputs.
    """
    if limits is not None and epsilon > limits[1] - limits[0]:
        raise ConfigurationError(
            f"epsilon is {epsilon:g} where inputs are in [{limits[0]:g}, {limits[1]:g}];"
            f" give it in their unit, such as {epsilon:g}/255."
        )


def shown(adversary: Any, **first: Any) -> str:
    """The call that makes such an adversary: `first`, then what differs from its defaults."""
    settings = dict(first)
    for name, parameter in inspect.signature(type(adversary)).parameters.items():
        value = first[name] if name in first else getattr(adversary, name)
        settings[name] = value
        if value == parameter.default:
            del settings[name]
    return f"{type(adversary).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"
