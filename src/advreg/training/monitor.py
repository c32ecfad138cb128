"""Seeing what a method that promises robustness leaves at PGD's mercy, while it trains."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks import Linf, fgsm, pgd
from advreg.attacks.gradient import unwarned
from advreg.data.splits import stratified_order
from advreg.errors import CatastrophicOverfittingWarning, UnprotectedWarning
from advreg.evaluation.accuracy import Images, as_inputs, deployed, device_of
from advreg.losses import correct
from advreg.methods import Method

IMAGES = 128
"""At most so many images are looked at: enough to see a collapse, too few to report."""

STEPS = 10
"""Gradient steps of PGD."""

FALL = 0.5
"""Catastrophic is a fall of the PGD accuracy to under this share of its best (unprotected, to
under this share of chance) ..."""

POINTS = 0.10
"""... by more than this much, while FGSM keeps at least the share `FALL` of its own best."""

LEARNT = 0.25
"""By so much above chance a network has learnt enough to be called unprotected."""


class OverfittingWatch:
    """Watches two accuracies for catastrophic overfitting (Wong 2020, Andriushchenko 2020)."""

    def __init__(self) -> None:
        self.best_fgsm = 0.0
        self.best_pgd = 0.0
        self.said = False

    def observe(self, fgsm: float, pgd: float) -> bool:
        """Takes one epoch's accuracies in [0, 1]; True the first time that it is seen."""
        self.best_fgsm, self.best_pgd = max(self.best_fgsm, fgsm), max(self.best_pgd, pgd)
        fell = pgd < FALL * self.best_pgd and self.best_pgd - pgd > POINTS
        stayed = fgsm >= FALL * self.best_fgsm and fgsm > pgd
        if self.said or not (fell and stayed):
            return False
        self.said = True
        return True


class PGDMonitor:
    """FGSM and PGD-10 on a few validation images, at the budget that a method trains on.

    A single-step method is looked at after every epoch, for catastrophic overfitting; example
    memory at the input, whose step costs half as much, at half of the training and at its end.
    A look costs a dozen passes over at most 128 images. It draws no random numbers but its
    own, the same in every epoch.

    Args:
        method: Whose `monitored` is the budget of both attacks.
        data: The validation images; some are taken, each class in proportion.
        epochs: Of the whole training.
    """

    def __init__(self, method: Method, data: Images, epochs: int) -> None:
        self.method, self.epochs = method, epochs
        chosen = stratified_order(data.targets.cpu(), seed=0)[:IMAGES]
        self.images, self.targets = data.images[chosen], data.targets[chosen]
        self.chance = 1 / max(len(data.targets.unique()), 1)
        self.watch = OverfittingWatch()
        self.said = False

    def look(self, model: nn.Module, said: list[str], epoch: int) -> dict[str, float]:
        """Attacks the network as it is deployed.

        Args:
            model: With inputs in [0, 1]; left as it is found.
            said: Where the message of a warning is kept too.
            epoch: The one that has ended, from 1.

        Returns:
            `monitor_fgsm` and `monitor_pgd`, accuracies in [0, 1] for the epoch's metrics; nothing
            for a method that is not monitored, or not now.

        Warns:
            CatastrophicOverfittingWarning: Once, when PGD has collapsed under FGSM's eyes.
            UnprotectedWarning: Once, from half of the training on, when under PGD fewer than half
                as many images are right as by a guess, of a network that has learnt more.
        """
        half = math.ceil(self.epochs / 2)
        epsilon = self.method.monitored
        if not epsilon or not (self.method.single_step or epoch in (half, self.epochs)):
            return {}
        clean, single, iterated = self._accuracies(model, epsilon)
        if self.watch.observe(single, iterated):
            self._warn(
                f"Catastrophic overfitting: at epsilon {epsilon:.3g} FGSM leaves"
                f" {single:.0%} right and PGD {iterated:.0%}, once {self.watch.best_pgd:.0%};"
                " take the checkpoint from before, or train with n_fgsm, pgd or a lower epsilon.",
                CatastrophicOverfittingWarning,
                said,
            )
        elif self._unprotected(clean, iterated) and epoch >= half:
            self.said = True
            self._warn(
                f"Unprotected: at epsilon {epsilon:.3g} PGD leaves {iterated:.0%} right, fewer than"
                f" a guess, and without an attack {clean:.0%} are; with example memory set"
                " data.view_epochs to 2 and data.view_block to 20, so that an image comes again"
                " sooner, or train with pgd or a lower epsilon.",
                UnprotectedWarning,
                said,
            )
        return {"monitor_fgsm": single, "monitor_pgd": iterated}

    def _unprotected(self, clean: float, pgd: float) -> bool:
        learnt = clean > self.chance + LEARNT
        return learnt and pgd < FALL * self.chance and not (self.said or self.watch.said)

    @staticmethod
    def _warn(message: str, kind: type[Warning], said: list[str]) -> None:
        said.append(message)
        warnings.warn(message, kind, stacklevel=3)

    def _accuracies(self, model: nn.Module, epsilon: float) -> tuple[float, float, float]:
        device = device_of(model, None)
        inputs, targets = as_inputs(model, self.images, device), self.targets.to(device)
        threat = Linf(epsilon)

        def accuracy(attacked: Tensor) -> float:
            return correct(model(attacked), targets).float().mean().item()

        with deployed(model, device), unwarned():
            random = torch.Generator().manual_seed(0)
            attacked = pgd(model, inputs, targets, threat, STEPS, generator=random)
            return (
                accuracy(inputs),
                accuracy(fgsm(model, inputs, targets, threat)),
                accuracy(attacked),
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as the undisturbed one."""
        return {**vars(self.watch), "unprotected": self.said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, or a version before `unprotected`."""
        watch = dict(state)
        self.said = watch.pop("unprotected", False)
        vars(self.watch).update(watch)
