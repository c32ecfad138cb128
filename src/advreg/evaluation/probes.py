"""Measuring what the evidence is judged on, on a few examples, each class in proportion."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.attacks import Threat
from advreg.errors import ConfigurationError, MissingExtraError
from advreg.evaluation.evidence import Figures
from advreg.evaluation.identity import is_detached
from advreg.evaluation.measurement import Attack, Measurement
from advreg.evaluation.results import Evaluation, accuracy
from advreg.evaluation.suites import Suite, noise_attack

CurvePoint = dict[str, float]
"""A budget and what it leaves: `epsilon`, `accuracy` and its `standard_error`."""


class Probes:
    """The measurements behind the evidence.

    Args:
        measurement: Of the network that is evaluated; what it has measured is not run again.
        suite: Whose attacks are examined.
        threats: The user's budgets.
        count: Examples to measure on, rounded up to whole batches.
        classes: How many there are.
    """

    def __init__(
        self,
        measurement: Measurement,
        suite: Suite,
        threats: dict[str, Threat],
        count: int,
        classes: int,
    ) -> None:
        self.measurement = measurement
        self.suite = suite
        self.threats = threats
        self.count = count
        self.classes = classes
        self.unmeasured: dict[str, str] = {}
        own = {attack.name for attack in suite.attacks}
        self.extra = [] if "noise" in own else [noise_attack()]
        try:
            measurement.check(suite.square, next(iter(threats.values())), classes)
            self.extra.append(suite.square)
        except (ConfigurationError, MissingExtraError) as error:
            self.unmeasured["square"] = str(error)

    def work(self) -> float:
        """What all of it will tell the clock, at most."""
        attacks = [*[self.suite.curve] * len(self._ladder()), self.suite.doubled, *self.extra]
        return sum(self.measurement.work(attack, self.count) for attack in attacks)

    def curve(self, evaluation: Evaluation) -> list[CurvePoint]:
        """Accuracy over the budget: nothing, the user's, then twice the last down to chance."""
        ladder = self._ladder()
        batch = self.measurement.batch_size
        clean = evaluation.clean["correct"][: -(-self.count // batch) * batch]
        points = [{"epsilon": 0.0, **accuracy(clean)}]
        last = max(threat.epsilon for threat in self.threats.values())
        for place, (text, threat) in enumerate(ladder.items(), start=1):
            outcome = self.measurement.attack(self.suite.curve, text, threat, self.count)
            points.append({"epsilon": threat.epsilon, **accuracy(outcome.correct)})
            if threat.epsilon >= last and points[-1]["accuracy"] <= self.chance():
                rest = self.measurement.work(self.suite.curve, self.count)
                self.measurement.clock.expect(-rest * (len(ladder) - place))
                break
        return points

    def chance(self) -> float:
        """One over the number of classes."""
        return 1 / self.classes

    def figures(
        self, evaluation: Evaluation, curve: list[CurvePoint], same_weights: bool | None
    ) -> Figures:
        """Everything that the evidence is judged on, at the budget that tells the most."""
        text = telling_budget(evaluation)
        found = evaluation.attacked[text].correct
        white = torch.stack([found[name] for name in self._white_box()]).all(0)
        black = {name: hits for name, hits in found.items() if name in ("noise", "transfer")}
        black |= {attack.name: self._hits(attack, text) for attack in self.extra}
        doubled = self._hits(self.suite.doubled, text)
        model, repeat = self.measurement.model, self._repeat()
        return Figures(
            epsilon=text,
            single_step=_share(found["fgsm"]),
            iterative=_share(found["pgd"]),
            doubled=(_share(found["pgd"][: len(doubled)]), _share(doubled)),
            curve=[(point["epsilon"], point["accuracy"]) for point in curve],
            chance=self.chance(),
            against={
                name: (_share(white[: len(hits)]), _share(hits)) for name, hits in black.items()
            },
            unmeasured=self.unmeasured,
            zero_gradient=_share(evaluation.clean["zero_gradient"]),
            repeat=repeat,
            evaluated=not any(module.training for module in model.modules()),
            detached=is_detached(model),
            same_weights=same_weights,
        )

    def _white_box(self) -> list[str]:
        return [attack.name for attack in self.suite.attacks if attack.sees_gradient]

    def _hits(self, attack: Attack, text: str) -> Tensor:
        return self.measurement.attack(attack, text, self.threats[text], self.count).correct

    def _ladder(self) -> dict[str, Threat]:
        """The budgets of the curve, upwards, by their text."""
        ladder = dict(sorted(self.threats.items(), key=lambda item: item[1].epsilon))
        widest = list(ladder.values())[-1]
        most = widest.diameter(self.measurement.data.images)
        epsilon = widest.epsilon
        while 0 < epsilon < most:
            epsilon = min(2 * epsilon, most)
            ladder[repr(epsilon)] = type(widest)(epsilon)
        return ladder

    def _repeat(self) -> float | None:
        """How far two passes of the first batch differ, relative to the largest output."""
        first, second = (self.measurement.first_logits().double() for _ in range(2))
        if not (first.isfinite().all() and second.isfinite().all()):
            self.unmeasured["repeat"] = "The network's outputs are not all finite."
            return None
        largest = first.abs().max().item()
        return (first - second).abs().max().item() / largest if largest else 0.0


def telling_budget(evaluation: Evaluation) -> str:
    """The budget at which about half of what was correct still stands under PGD.

    Where everything stands or everything has fallen, no attack can be told from another. Of
    budgets that tell alike the largest is taken: at it the others have the best of chances.
    """
    half = _share(evaluation.clean["correct"]) / 2

    def distance(text: str) -> tuple[float, float]:
        found = evaluation.attacked[text]
        return abs(_share(found.correct["pgd"]) - half), -found.epsilon

    return min(evaluation.attacked, key=distance)


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()
