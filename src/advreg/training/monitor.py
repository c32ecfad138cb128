"""Seeing a single-step method overfit to its own attack: safe from FGSM, at PGD's mercy."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks import Linf, fgsm, pgd
from advreg.attacks.gradient import unwarned
from advreg.data.splits import stratified_order
from advreg.errors import CatastrophicOverfittingWarning
from advreg.evaluation.accuracy import Images, as_inputs, deployed, device_of
from advreg.losses import correct
from advreg.methods import Method

IMAGES = 128
"""At most so many images are looked at: enough to see a collapse, too few to report."""

STEPS = 10
"""Gradient steps of PGD."""

FALL = 0.5
"""Catastrophic is a fall of the PGD accuracy to under this share of its best ..."""

POINTS = 0.10
"""... by more than this much, while FGSM keeps at least the share `FALL` of its own best."""


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
    """After every epoch of a single-step method: FGSM and PGD-10 on a few validation images.

    Costs a dozen passes over at most 128 images. Methods that are not single-step are not
    looked at. Draws no random numbers but its own, the same in every epoch.

    Args:
        method: Whose `epsilon` is the budget of both attacks.
        data: The validation images; some are taken, each class in proportion.
    """

    def __init__(self, method: Method, data: Images) -> None:
        self.epsilon = float(getattr(method, "epsilon", 0.0)) if method.single_step else 0.0
        chosen = stratified_order(data.targets.cpu(), seed=0)[:IMAGES]
        self.images, self.targets = data.images[chosen], data.targets[chosen]
        self.watch = OverfittingWatch()

    def look(self, model: nn.Module, said: list[str]) -> dict[str, float]:
        """Attacks the network as it is deployed.

        Args:
            model: With inputs in [0, 1]; left as it is found.
            said: Where the message of a warning is kept too.

        Returns:
            `monitor_fgsm` and `monitor_pgd`, accuracies in [0, 1] for the epoch's metrics; nothing
            for a method that is not monitored.

        Warns:
            CatastrophicOverfittingWarning: Once, when PGD has collapsed under FGSM's eyes.
        """
        if not self.epsilon:
            return {}
        single, iterated = self._accuracies(model)
        if self.watch.observe(single, iterated):
            message = (
                f"Catastrophic overfitting: at epsilon {self.epsilon:.3g} FGSM leaves"
                f" {single:.0%} right and PGD {iterated:.0%}, once {self.watch.best_pgd:.0%};"
                " take the checkpoint from before, or train with n_fgsm, pgd or a lower epsilon."
            )
            said.append(message)
            warnings.warn(message, CatastrophicOverfittingWarning, stacklevel=2)
        return {"monitor_fgsm": single, "monitor_pgd": iterated}

    def _accuracies(self, model: nn.Module) -> tuple[float, float]:
        device = device_of(model, None)
        inputs, targets = as_inputs(model, self.images, device), self.targets.to(device)
        threat = Linf(self.epsilon)

        def accuracy(attacked: Tensor) -> float:
            return correct(model(attacked), targets).float().mean().item()

        with deployed(model, device), unwarned():
            single = accuracy(fgsm(model, inputs, targets, threat))
            random = torch.Generator().manual_seed(0)
            return single, accuracy(pgd(model, inputs, targets, threat, STEPS, generator=random))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as the undisturbed one."""
        return vars(self.watch).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        vars(self.watch).update(state)
