"""Numbers as people write budgets: `0.1`, `8/255`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from advreg.errors import ConfigurationError

Number = float | str
"""A setting that may be given as a number or as text such as `8/255`."""


def number(value: Number, name: str = "value") -> float:
    """Reads a number or a fraction.

    Args:
        value: A number, or text such as `"0.1"`, `"1e-3"` or `"8/255"`.
        name: What the number is, for the message.

    Raises:
        ConfigurationError: It is neither, or it is not finite.
    """
    try:
        parsed = float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        raise ConfigurationError(
            f"{name} is {value!r}; give a number or a fraction such as 8/255."
        ) from None
    if not math.isfinite(parsed):
        raise ConfigurationError(f"{name} is {value!r}; give a finite number.")
    return parsed


def non_negative(value: Number, name: str = "value") -> float:
    """Reads a number as `number` does and refuses a negative one.

    Raises:
        ConfigurationError: It is negative or not a number.
    """
    parsed = number(value, name)
    if parsed < 0:
        raise ConfigurationError(f"{name} is {value!r}; give a number of at least 0.")
    return parsed


def count(name: str, value: object, least: int = 1) -> None:
    """Refuses what is not a whole number of at least `least`.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name} is {value!r}; give a whole number of at least {least}.")


def choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuses what is not one of the choices.

    Raises:
        ConfigurationError: It is not.
    """
    if value not in choices:
        raise ConfigurationError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def at_least_one(**counts: int) -> None:
    """Refuses counts under one, each by its name.

    Raises:
        ConfigurationError: A count is not a whole number of at least 1.
    """
    for name, value in counts.items():
        count(name, value)
