"""Numbers as people write budgets: `0.1`, `8/255`."""

from __future__ import annotations

import math
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


def at_least_one(**counts: int) -> None:
    """Refuses counts under one, each by its name.

    Raises:
        ConfigurationError: A count is not an integer of at least 1.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigurationError(f"{name} is {count!r}; give an integer of at least 1.")
