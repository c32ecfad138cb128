"""Which attacks an evaluation is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advreg.attacks import Threat, autoattack, fgsm, noise, pgd, square, transfer
from advreg.attacks.autoattack import check_classes, check_images, need_autoattack
from advreg.errors import ConfigurationError
from advreg.evaluation.accuracy import input_type
from advreg.evaluation.measurement import Attack, Run
from advreg.inputs import logits_of
from advreg.losses import Criterion, cross_entropies, task_of
from advreg.tensors import perturbed, wide
from advreg.units import at_least_one

NOISE_DRAWS = 10
"""Of the random noise attack, an example."""


@dataclass(frozen=True)
class Suite:
    """The attacks of an evaluation and those that only serve as evidence.

    Attributes:
        name: As the user writes it.
        attacks: Run on every example at every budget.
        curve: PGD that finds the accuracy over the budget, down to chance.
        doubled: `pgd` with twice the steps.
        square: The black-box attack that the white-box ones must not fall behind.
    """

    name: str
    attacks: tuple[Attack, ...]
    curve: Attack
    doubled: Attack
    square: Attack

    @property
    def pgd(self) -> Attack:
        """The PGD among the attacks."""
        return next(attack for attack in self.attacks if attack.name == "pgd")


def fgsm_attack(criterion: Criterion = cross_entropies) -> Attack:
    """One step of the whole budget."""

    def craft(
        model: nn.Module, inputs: Tensor, targets: Tensor, threat: Threat, run: Run
    ) -> Tensor:
        return fgsm(model, inputs, targets, threat, criterion=criterion)

    return Attack("fgsm", craft, work=3.0)


def pgd_attack(
    steps: int, restarts: int = 1, name: str = "pgd", criterion: Criterion = cross_entropies
) -> Attack:
    """PGD from random starts, its steps 2.5 * epsilon / steps long.

    Under L2 the first run starts at the input.
    """

    def craft(
        model: nn.Module, inputs: Tensor, targets: Tensor, threat: Threat, run: Run
    ) -> Tensor:
        random = run.number > 0 or not threat.starts_at_inputs
        return pgd(
            model,
            inputs,
            targets,
            threat,
            steps,
            random_start=random,
            generator=_generator(run.seed),
            criterion=criterion,
        )

    settings = {
        "steps": steps,
        "step_size": "2.5 * epsilon / steps",
        "random_start": "but for the first run under L2",
    }
    return Attack(name, craft, settings, 3.0 * steps, restarts)


def noise_attack(draws: int = NOISE_DRAWS) -> Attack:
    """Uniform noise from the ball; of each example the worst draw counts."""

    def craft(
        model: nn.Module, inputs: Tensor, targets: Tensor, threat: Threat, run: Run
    ) -> Tensor:
        return noise(inputs, threat, generator=_generator(run.seed))

    return Attack("noise", craft, restarts=draws, sees_gradient=False)


def transfer_attack(source: nn.Module, steps: int = 20) -> Attack:
    """PGD on another model, the result tried on the one under test."""

    def craft(
        model: nn.Module, inputs: Tensor, targets: Tensor, threat: Threat, run: Run
    ) -> Tensor:
        origins = inputs.to(input_type(source))
        generator = _generator(run.seed)
        found = transfer(source, origins, targets, threat, steps=steps, generator=generator)
        if origins.dtype == inputs.dtype:
            return found
        return perturbed(inputs, wide(found) - wide(origins), (0.0, 1.0))

    def check(inputs: Tensor, threat: Threat, classes: int) -> None:
        logits = logits_of(source(inputs.to(input_type(source))))
        others = task_of(None, logits).class_logits(logits).shape[1]
        if others != classes:
            raise ConfigurationError(
                f"The model that attacks are transferred from tells {others} classes apart, the"
                f" evaluated one {classes}; give one that was trained for the same classes."
            )

    settings = {"steps": steps}
    return Attack("transfer", craft, settings, 3.0 * steps, sees_gradient=False, check=check)


def square_attack(queries: int) -> Attack:
    """AutoAttack's Square alone."""

    def craft(
        model: nn.Module, inputs: Tensor, targets: Tensor, threat: Threat, run: Run
    ) -> Tensor:
        return square(model, inputs, targets, threat, queries=queries, seed=run.seed)

    def check(inputs: Tensor, threat: Threat, classes: int) -> None:
        need_autoattack()
        check_images(inputs, threat)

    settings = {"queries": queries}
    return Attack("square", craft, settings, 0.5 * queries, sees_gradient=False, check=check)


def autoattack_attack() -> Attack:
    """AutoAttack's standard version."""

    def craft(
        model: nn.Module, inputs: Tensor, targets: Tensor, threat: Threat, run: Run
    ) -> Tensor:
        return autoattack(model, inputs, targets, threat, seed=run.seed)

    def check(inputs: Tensor, threat: Threat, classes: int) -> None:
        check_classes(classes)
        check_images(inputs, threat)

    # 100 steps of APGD, 9 * 100 targeted, 9 * 100 of FAB, 5,000 queries, fewer as examples fall.
    # It holds Square, so it cannot witness that gradients do better than that.
    settings = {"version": "standard"}
    return Attack("autoattack", craft, settings, 6000.0, sees_gradient=False, check=check)


class Level(NamedTuple):
    """How strong a suite is: steps and restarts of PGD, queries of Square as a witness."""

    steps: int
    restarts: int
    queries: int


SUITES = {
    "quick": Level(20, 1, 100),
    "standard": Level(50, 10, 1000),
    "headline": Level(50, 10, 5000),
}
"""Quick is FGSM and PGD; standard has noise, too, and headline AutoAttack on top."""


def build_suite(name: str, steps: int | None = None, restarts: int | None = None) -> Suite:
    """The suite of a name.

    Args:
        name: One of `SUITES`.
        steps: Of PGD, if not the suite's.
        restarts: Likewise.

    Raises:
        ConfigurationError: There is none, a count is under one, or it needs a package that is not
            installed.
    """
    if name not in SUITES:
        raise ConfigurationError(f"There is no suite {name!r}; take one of {', '.join(SUITES)}.")
    level = SUITES[name]
    steps = level.steps if steps is None else steps
    restarts = level.restarts if restarts is None else restarts
    at_least_one(steps=steps, restarts=restarts)
    pgd = pgd_attack(steps, restarts)
    attacks = [fgsm_attack(), pgd]
    if name != "quick":
        attacks.append(noise_attack())
    if name == "headline":
        need_autoattack()
        attacks.append(autoattack_attack())
    return Suite(
        name,
        tuple(attacks),
        curve=pgd if (steps, restarts) == (20, 1) else pgd_attack(20, name="pgd-20"),
        doubled=pgd_attack(2 * steps, restarts, "pgd-doubled"),
        square=square_attack(level.queries),
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
