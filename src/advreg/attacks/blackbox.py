"""Attacks that never see the model's gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.gradient import pgd
from advreg.attacks.threat import Threat
from advreg.checks import Range
from advreg.tensors import perturbed, wide


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
    threat.check(inputs, input_range)
    inputs = inputs.detach()
    return perturbed(inputs, threat.start(wide(inputs), generator), input_range)


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
        DataError: Likewise.
    """
    return pgd(source, inputs, targets, threat, **settings)
