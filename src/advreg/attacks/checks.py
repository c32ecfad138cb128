"""Refusing what would make an attack meaningless."""

from __future__ import annotations

from torch import Tensor

from advreg.attacks.threat import Threat
from advreg.errors import ConfigurationError

Range = tuple[float, float]
"""The lowest and the highest value that an input may have."""


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
