"""Seeing what a method that promises robustness leaves at PGD's mercy, while it trains."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn

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
"""Catastrophic is a fall of the PGD accuracy to under this share of its best ..."""

POINTS = 0.10
"""... by more than this much, while FGSM keeps at least the share `FALL` of its own best."""

LEFT = 0.1
"""Unprotected is a network with under this share of its clean accuracy left by PGD ..."""

LEARNT = 0.4
"""... once its clean accuracy is so much of the way from chance to one."""

YOUNG = 100
"""Mini-batches before which no network is called so: after a few steps none is protected."""

SPARING = 120
"""Mini-batches between two looks at a method whose looks must be cheap: a look costs a dozen."""


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

    A single-step method is looked at after every epoch. Example memory at the input is from half
    of the training on, and there so seldom that it costs no more than a tenth of the time: what it
    remembers fits the least where the learning rate is high. A look costs a dozen passes over at
    most 128 images. It draws no random numbers but its own, the same in every epoch.

    Args:
        method: Whose `monitored` is the budget of both attacks.
        data: The validation images; some are taken, each class in proportion.
        epochs: Of the whole training.
        batch_size: Images that are attacked at once.
    """

    def __init__(self, method: Method, data: Images, epochs: int, batch_size: int = IMAGES) -> None:
        self.method, self.epochs, self.batch_size = method, epochs, batch_size
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
            UnprotectedWarning: Once, from half of the training on, when PGD leaves under a tenth of
                the images that a network which has learnt has right.
        """
        epsilon = self.method.monitored
        if not epsilon or not self._due(epoch):
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
        elif self._unprotected(clean, iterated, epoch):
            self.said = True
            mend = "train with n_fgsm, pgd or a lower epsilon."
            if not self.method.single_step:
                mend = (
                    "let each image come again sooner, as with data.view_epochs 2 and"
                    f" data.view_block 20, or {mend}"
                )
            self._warn(
                f"Unprotected: at epsilon {epsilon:.3g}, on which the network trains, PGD leaves"
                f" {iterated:.0%} right of {clean:.0%} without an attack; {mend}",
                UnprotectedWarning,
                said,
            )
        return {"monitor_fgsm": single, "monitor_pgd": iterated}

    @property
    def _half(self) -> int:
        return math.ceil(self.epochs / 2)

    def _due(self, epoch: int) -> bool:
        if self.method.single_step or epoch == self._half:
            return True
        every = math.ceil(SPARING / (self.method.steps_per_epoch or SPARING))
        return epoch > self._half and (self.epochs - epoch) % every == 0

    def _unprotected(self, clean: float, pgd: float, epoch: int) -> bool:
        learnt = clean > self.chance + LEARNT * (1 - self.chance)
        late = epoch >= self._half and epoch * (self.method.steps_per_epoch or YOUNG) >= YOUNG
        return learnt and late and pgd < LEFT * clean and not (self.said or self.watch.said)

    @staticmethod
    def _warn(message: str, kind: type[Warning], said: list[str]) -> None:
        said.append(message)
        warnings.warn(message, kind, stacklevel=3)

    def _accuracies(self, model: nn.Module, epsilon: float) -> tuple[float, float, float]:
        """Of clean images, under FGSM and under PGD."""
        device, threat = device_of(model, None), Linf(epsilon)
        inputs, targets = as_inputs(model, self.images, device), self.targets.to(device)
        random = torch.Generator().manual_seed(0)
        right = torch.zeros(3)
        with deployed(model, device), unwarned():
            for x, y in zip(
                inputs.split(self.batch_size), targets.split(self.batch_size), strict=True
            ):
                attacked = (
                    x,
                    fgsm(model, x, y, threat),
                    pgd(model, x, y, threat, STEPS, generator=random),
                )
                right += torch.tensor([correct(model(one), y).sum().item() for one in attacked])
        clean, single, iterated = (right / max(len(targets), 1)).tolist()
        return clean, single, iterated

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as the undisturbed one."""
        return {**vars(self.watch), "unprotected": self.said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, or a version before `unprotected`."""
        watch = dict(state)
        self.said = watch.pop("unprotected", False)
        vars(self.watch).update(watch)
