"""Nuclear-norm adversarial training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advreg.errors import ConfigurationError
from advreg.losses import Task
from advreg.methods.guided import GuidedTraining
from advreg.units import Number


@dataclass
class NuAT(GuidedTraining):
    """J(f(X)) + w |f(X) - f(X')|_* / B, X' by one step on J(f(X')) + w |f(X) - f(X')|_* / B.

    Sriramanan, Addepalli, Baburaj and Babu, NeurIPS 2021, "Towards efficient and effective
    adversarial training". |M|_* is the sum of the singular values of a mini-batch's (B, K) matrix
    of differences between logits; it is divided by B as in the authors' code. Start, mode and
    statistics are those of `GuidedTraining`.

    Args:
        epsilon: The L-infinity budget in units of the input; fractions such as "8/255" are read.
        step_size: Length of the attack's step; None is epsilon.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the starts.
        noise: Size of the start; None is half of epsilon, 4/255 at the default.
        weight: The weight w that the ramp ends with.
        alternate: Leave the norm out of every other mini-batch's attack, so that attacks differ.
        ramp: Share of the training over which the weight grows linearly from zero.
    """

    name: ClassVar[str] = "nuat"
    single_step: ClassVar[bool] = True
    weight: Number = 4.5
    ramp: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ramp <= 1:
            raise ConfigurationError(f"ramp is {self.ramp}; give a share from 0 to 1.")

    def present_weight(self) -> float:
        """See `GuidedTraining.present_weight`."""
        return float(self.weight) * (min(self.share_done / self.ramp, 1) if self.ramp else 1)

    def difference(self, task: Task, clean: Any, attacked: Any) -> Tensor:
        """The nuclear norm of the logits' differences over their number.

        Positions are rows as examples are; it is divided by the square root of their number, so
        that positions that are all alike count as one.
        """
        change = task.class_logits(clean) - task.class_logits(attacked)
        rows = change.movedim(1, -1).reshape(-1, change.shape[1])
        positions = len(rows) // len(change)
        try:
            norm = torch.linalg.matrix_norm(rows, "nuc")
        except torch.linalg.LinAlgError:
            if rows.isfinite().all():
                raise
            norm = rows.sum()  # no number either, as any other method's loss is of such logits
        return norm / (len(change) * math.sqrt(positions))
