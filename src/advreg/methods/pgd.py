"""PGD adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from advreg.attacks import L2, Linf, Threat, pgd
from advreg.attacks.gradient import unwarned
from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.methods.adversarial import AdversarialTraining
from advreg.methods.base import Criterion
from advreg.units import at_least_one

Norm = Literal["linf", "l2"]


@dataclass
class PGD(AdversarialTraining):
    """J at the end of k projected steps of gradient ascent from a random start.

    Madry et al., ICLR 2018, arXiv 1706.06083.

    Args:
        epsilon: The radius of the ball in units of the input; fractions such as "8/255" are read.
        step_size: Length of a step; None is 2.5 * epsilon / steps, 2/255 at the defaults.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the random starts.
        norm: Of the ball, "linf" or "l2" (the length of an example's perturbation).
        steps: Gradient steps k a mini-batch.
    """

    name: ClassVar[str] = "pgd"
    norm: Norm = "linf"
    steps: int = 10

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ConfigurationError(f"norm is {self.norm!r}; choose linf or l2.")
        at_least_one(steps=self.steps)
        if self.step_size is None:
            self.step_size = 2.5 * self.threat.epsilon / self.steps
        super().__post_init__()

    @property
    def passes(self) -> float:
        """One for each step, one to train."""
        return self.steps + 1.0

    @property
    def threat(self) -> Threat:
        """See `AdversarialTraining.threat`."""
        return Linf(self.epsilon) if self.norm == "linf" else L2(self.epsilon)

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`."""
        with unwarned():
            return pgd(
                network,
                batch.inputs,
                batch.targets,
                self.threat,
                self.steps,
                self.step_size,
                generator=self.generator(batch.inputs),
                criterion=criterion,
                input_range=self.limits,
            )
