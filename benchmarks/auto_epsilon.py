"""A budget that sets itself, tried: studies/auto_epsilon.yaml compares it with fixed ones.

    advreg compare studies/auto_epsilon.yaml --size cpu --data cifar10 --out runs/auto \\
        --trust benchmarks.auto_epsilon:AutoEpsilon,benchmarks.auto_epsilon:Flooding
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from advreg.batch import Batch
from advreg.losses import Criterion
from advreg.methods.base import Backward, Carried, Method, TrainingPasses, training_pass
from advreg.methods.layerwise import Layerwise
from advreg.methods.output import StepOutput
from advreg.units import non_negative


class Share:
    """The share of the largest budget in effect, from 0 to 1."""

    value = 0.0

    def follow(self, change: float) -> None:
        """Moves it, within its limits."""
        self.value = min(max(self.value + change, 0.0), 1.0)

    def state_dict(self) -> dict[str, Any]:
        """See `Carried`."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Carried`."""
        self.value = state["value"]


@dataclass
class AutoEpsilon(Layerwise):
    """Layerwise training whose budget grows while the loss is below a floor, and else shrinks.

    A network that fits its training data has nothing more to learn from them: their loss falls
    below the floor, and the perturbation then holds it there. Where augmentation, the number of
    images or the length of training keep the loss above, the budget stays zero.

    Args:
        floor: The loss to hold, in nats.
        rate: The largest budget's share by which the budget grows in a step of no loss.
    """

    name: ClassVar[str] = "auto_epsilon"
    floor: float = 0.5
    rate: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        self.floor = non_negative(self.floor, "floor")
        self.rate = non_negative(self.rate, "rate")

    def carries(self) -> dict[str, Carried]:
        """See `Method.carries`."""
        return {**super().carries(), "share": Share()}

    def prepared(self, batch: Batch, criterion: Criterion) -> TrainingPasses:
        """See `Method.prepared`."""
        passes, share = super().prepared(batch, criterion), self.carried["share"]
        largest = self.adversary.config.epsilon
        assert isinstance(largest, float)
        for site in self.adversary.sites:
            site.epsilon = largest * share.value

        def run(model: Any, backward: Backward) -> StepOutput:
            output = passes(model, backward)
            share.follow(self.rate * (1 - float(output.loss) / self.floor))
            return output

        return run


@dataclass
class Flooding(Method):
    """The control: the same floor, held by climbing the loss below it (Ishida et al., ICML 2020).

    Args:
        floor: The loss to hold, in nats.
    """

    name: ClassVar[str] = "flooding"
    floor: float = 0.5

    def step(
        self, model: Any, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; arXiv 2002.08709, equation 3."""

        def flooded(loss: Any) -> None:
            backward((loss - self.floor).abs() + self.floor)

        return training_pass(model, batch, criterion, flooded)
