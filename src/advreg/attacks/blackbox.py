"""Attacks that never see the model's gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.checks import Range, inputs_within, within_range
from advreg.attacks.gradient import pgd
from advreg.attacks.threat import Threat


def noise(
    inputs: Tensor,
    threat: Threat,
    *,
    generator: torch.Generator | None = None,
    input_range: Range | None = (0.0, 1.0),
) -> Tensor:
    """Adds a perturbation drawn uniformly from the threat model's ball.

    What every attack must beat: a gradient that does no better than chance is masked.

    Args:
        inputs: (B, ...) floating point, within `input_range`.
        threat: The threat model.
        generator: Where the draws come from.
        input_range: What the result is clamped into; None for no limits.

    Raises:
        ConfigurationError: epsilon or the inputs do not fit the range.
    """
    within_range(threat, inputs, input_range)
    inputs_within(inputs, input_range)
    noisy = inputs.detach() + threat.start(inputs, generator)
    return noisy if input_range is None else noisy.clamp(*input_range)


def transfer(
    source: nn.Module, inputs: Tensor, targets: Tensor, threat: Threat, **settings: Any
) -> Tensor:
    """Finds bad inputs of another model, to be tried on the one under test (Papernot 2016).

    Args:
        source: The other model; its gradient is followed, by `pgd`.
        inputs: As for `pgd`.
        targets: As for `pgd`.
        threat: The threat model.
        **settings: Of `pgd`.

    Raises:
        ConfigurationError: As `pgd` does.
    """
    return pgd(source, inputs, targets, threat, **settings)
