"""What an evaluation found, example by example, and its figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Robustness:
    """What the attacks left at one budget.

    Attributes:
        epsilon: The L-infinity budget in [0, 1].
        correct: For each attack, (N,) bool: the examples that are still classified correctly.
        seconds: What the attacks took.
    """

    epsilon: float
    correct: dict[str, Tensor]
    seconds: float

    @property
    def worst(self) -> Tensor:
        """(N,) bool, the examples that stood up to every attack."""
        return torch.stack(list(self.correct.values())).all(0)


@dataclass(frozen=True)
class Evaluation:
    """Every example's fate, clean and attacked; all tensors are on the CPU.

    Attributes:
        settings: How it was measured, ready for JSON.
        correct: (N,) bool, the clean examples that are classified correctly.
        losses: (N,) float32, their negative log-likelihoods in nats.
        not_finite: (N,) bool, the clean examples with logits that are not all finite; they count
            as misclassified.
        zero_gradient: (N,) bool, the clean examples at which every finite entry of the loss's
            gradient is zero, so that an attack by gradients says nothing about them.
        attacked: For each budget, as the user wrote it, what the attacks left.
        seconds: What all of it took.
    """

    settings: dict[str, Any]
    correct: Tensor
    losses: Tensor
    not_finite: Tensor
    zero_gradient: Tensor
    attacked: dict[str, Robustness]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The figures alone, ready for JSON; accuracies and shares are fractions of one.

        An attack's `passes` are the forward-and-backward passes that it makes for an example. The
        clean `nll` is None where it is not finite.
        """
        nll = self.losses.double().mean().item()
        passes = {"fgsm": 1, "pgd": self.settings["steps"] * self.settings["restarts"]}
        epsilons = {}
        for text, result in self.attacked.items():
            attacks: dict[str, dict[str, float]] = {
                name: {**_accuracy(hits), "passes": passes[name]}
                for name, hits in result.correct.items()
            }
            attacks["worst"] = _accuracy(result.worst)
            epsilons[text] = {"epsilon": result.epsilon, **attacks, "seconds": result.seconds}
        return {
            "settings": self.settings,
            "examples": len(self.correct),
            "clean": {**_accuracy(self.correct), "nll": nll if math.isfinite(nll) else None},
            "not_finite": self.not_finite.double().mean().item(),
            "zero_gradient": self.zero_gradient.double().mean().item(),
            "epsilons": epsilons,
            "seconds": self.seconds,
        }


def _accuracy(hits: Tensor) -> dict[str, float]:
    """The share of hits and its binomial standard error, sqrt(p (1 - p) / N)."""
    share = hits.double().mean().item()
    return {
        "accuracy": share,
        "standard_error": math.sqrt(share * (1 - share) / len(hits)),
    }
