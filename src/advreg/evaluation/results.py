"""What an evaluation found, example by example, and its figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.evaluation.calibration import calibration_error

COLUMNS = ("correct", "loss", "brier", "confidence", "prediction", "not_finite", "zero_gradient")
"""The figures of each example without an attack, and their order in a piece."""

_FLAGS = ("correct", "not_finite", "zero_gradient")


class Columns:
    """Figures of N examples without an attack.

    Args:
        values: (N, columns) float64, in the order of `COLUMNS`.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, name: str) -> Tensor:
        """One column, (N,): bool, int64 for `prediction`, or float64."""
        column = torch.from_numpy(self.values[:, COLUMNS.index(name)])
        if name in _FLAGS:
            return column.bool()
        return column.long() if name == "prediction" else column

    def to_dict(self) -> dict[str, float | None]:
        """Accuracy with its standard error, nll (nats), Brier score and calibration error.

        The last three are None where they are not finite, as with logits that are not.
        """
        error = calibration_error(self["confidence"], self["correct"])
        return {
            **accuracy(self["correct"]),
            "nll": _finite_mean(self["loss"]),
            "brier": _finite_mean(self["brier"]),
            "ece": error if math.isfinite(error) else None,
        }


@dataclass(frozen=True)
class Outcome:
    """What one attack left at one budget.

    Attributes:
        correct: (N,) bool, the examples that are still classified correctly.
        seconds: What it took.
        passes: Forward passes an example that gradients were taken through.
        queries: Forward passes an example without.
    """

    correct: Tensor
    seconds: float
    passes: float
    queries: float

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {
            **accuracy(self.correct),
            "passes": self.passes,
            "queries": self.queries,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Robustness:
    """What the attacks left at one budget.

    Attributes:
        epsilon: The budget, in the threat model's norm.
        outcomes: For each attack.
    """

    epsilon: float
    outcomes: dict[str, Outcome]

    @property
    def correct(self) -> dict[str, Tensor]:
        """For each attack, (N,) bool."""
        return {name: outcome.correct for name, outcome in self.outcomes.items()}

    @property
    def worst(self) -> Tensor:
        """(N,) bool, the examples that stood up to every attack."""
        return torch.stack(list(self.correct.values())).all(0)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "epsilon": self.epsilon,
            **{name: outcome.to_dict() for name, outcome in self.outcomes.items()},
            "worst": accuracy(self.worst),
            "seconds": sum(outcome.seconds for outcome in self.outcomes.values()),
        }


@dataclass(frozen=True)
class Evaluation:
    """Every example's fate, clean and attacked; all tensors are on the CPU.

    Attributes:
        settings: How it was measured, ready for JSON.
        indices: (N,) int64, each example's place in the data.
        targets: (N,) int64.
        clean: The examples without an attack.
        attacked: For each budget, as the user wrote it, what the attacks left.
        seconds: What its pieces took, in all sessions together.
    """

    settings: dict[str, Any]
    indices: Tensor
    targets: Tensor
    clean: Columns
    attacked: dict[str, Robustness]
    seconds: float

    def in_data_order(self) -> Evaluation:
        """The same with the examples in the order of the data."""
        order = self.indices.argsort()
        attacked = {
            text: Robustness(
                found.epsilon,
                {
                    name: replace(outcome, correct=outcome.correct[order])
                    for name, outcome in found.outcomes.items()
                },
            )
            for text, found in self.attacked.items()
        }
        clean = Columns(self.clean.values[order.numpy()])
        indices, targets = self.indices[order], self.targets[order]
        return replace(self, indices=indices, targets=targets, clean=clean, attacked=attacked)

    def to_dict(self) -> dict[str, Any]:
        """The figures alone, ready for JSON; accuracies and shares are fractions of one.

        `not_finite` is the share of examples with logits that are not all finite, which count as
        misclassified; `zero_gradient` that of clean examples at which every finite entry of the
        loss's gradient is zero, so that an attack by gradients says nothing about them.
        """
        return {
            "settings": self.settings,
            "examples": len(self.clean),
            "clean": self.clean.to_dict(),
            "not_finite": self.clean["not_finite"].double().mean().item(),
            "zero_gradient": self.clean["zero_gradient"].double().mean().item(),
            "epsilons": {text: found.to_dict() for text, found in self.attacked.items()},
            "seconds": self.seconds,
        }

    def examples(self) -> dict[str, Any]:
        """(N,) arrays: `index`, `target`, the clean figures, and `ATTACK at EPSILON`: correct."""
        arrays: dict[str, Any] = {"index": self.indices.numpy(), "target": self.targets.numpy()}
        arrays |= {name: self.clean[name].numpy() for name in COLUMNS}
        for text, found in self.attacked.items():
            for name, hits in {**found.correct, "worst": found.worst}.items():
                arrays[f"{name} at {text}"] = hits.numpy()
        return arrays


def accuracy(hits: Tensor) -> dict[str, float]:
    """The share of hits and its binomial standard error, sqrt(p (1 - p) / N)."""
    share = hits.double().mean().item()
    return {
        "accuracy": share,
        "standard_error": math.sqrt(share * (1 - share) / len(hits)),
    }


def _finite_mean(values: Tensor) -> float | None:
    mean = values.double().mean().item()
    return mean if math.isfinite(mean) else None
