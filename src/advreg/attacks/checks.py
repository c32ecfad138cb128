"""Old names of checks that are elsewhere now."""

from __future__ import annotations

from torch import Tensor

from advreg.attacks.threat import Threat
from advreg.inputs import ROUNDING, Range, check_budget
from advreg.inputs import check_inputs as inputs_within
from advreg.inputs import check_logits as not_probabilities
from advreg.modes import check_evaluating as in_evaluation_mode
from advreg.modes import check_statistics_frozen as statistics_stay
from advreg.units import at_least_one

__all__ = [
    "ROUNDING",
    "Range",
    "at_least_one",
    "in_evaluation_mode",
    "inputs_within",
    "not_probabilities",
    "statistics_stay",
    "within_range",
]


def within_range(threat: Threat, inputs: Tensor, input_range: Range | None) -> None:
    """Now `Threat.check`, which examines the inputs too."""
    check_budget(threat.epsilon, input_range, threat.diameter(inputs))
