"""Guided adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from advreg.errors import ConfigurationError
from advreg.losses import Task
from advreg.methods.guided import GuidedTraining
from advreg.units import Number, non_negative


@dataclass
class GAT(GuidedTraining):
    """J(f(x)) + w |p(x) - p(x')|_2^2, x' by one step on J(f(x')) + w |p(x) - p(x')|_2^2.

    Sriramanan, Addepalli, Baburaj and Babu, NeurIPS 2020, arXiv 2011.14969, the single-step
    defence (GAT). p are the probabilities; the square is summed over classes and averaged over the
    mini-batch. Start, mode and statistics are those of `GuidedTraining`.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: Length of the attack's step; None is epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the starts.
        noise: Size of the start; None is half of epsilon, 4/255 at the default.
        weight: The weight w.
        alternate: Leave the square out of every other mini-batch's attack, so that attacks differ.
        late: Share of the training after which the weight is `late_factor` times as large.
        late_factor: See `late`; 1 keeps the weight.
    """

    name: ClassVar[str] = "gat"
    single_step: ClassVar[bool] = True
    weight: Number = 10.0
    late: float = 0.85
    late_factor: Number = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.late_factor = non_negative(self.late_factor, "late_factor")
        if not 0 <= self.late <= 1:
            raise ConfigurationError(f"late is {self.late}; give a share from 0 to 1.")

    def present_weight(self) -> float:
        """See `GuidedTraining.present_weight`."""
        return float(self.weight) * (float(self.late_factor) if self.share_done > self.late else 1)

    def difference(self, task: Task, clean: Any, attacked: Any) -> Tensor:
        """The squared distance of the probabilities, the mean over examples and positions."""
        change = task.class_logits(clean).softmax(1) - task.class_logits(attacked).softmax(1)
        return change.square().sum(1).mean()
