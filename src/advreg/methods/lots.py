"""Training on LOTS images."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg.attacks.lots import Goal, descend
from advreg.batch import Batch
from advreg.errors import ConfigurationError, SiteError
from advreg.layerwise import default_sites, pairing_order, resolve_sites
from advreg.losses import Task, task_of
from advreg.methods.activations import SiteHooks
from advreg.methods.base import Backward, Criterion, Method
from advreg.methods.output import StepOutput
from advreg.units import Number, at_least_one, non_negative


@dataclass
class LOTS(Method):
    """w J(x) + (1 - w) J(x'), w = `clean_weight`, where x' shows the features of another class.

    Rozsa, Guenther and Boult, arXiv 1611.06179; `advreg.attacks.lots` has the steps. Each
    image's target is another image of the mini-batch, of another class as far as there are
    enough; the clean pass gives the target's features. x' keeps the label of x.

    Args:
        layer: The module whose output is matched; None is the last block or stage.
        steps: The most steps an image takes; one stops when it is classified as its target.
        step_size: The most that a pixel moves in a step; fractions such as "1/255" are read.
        clean_weight: The weight of the clean loss, above 0 and under 1.
        input_range: The moved images are clamped to it; None takes the network's own.
    """

    name: ClassVar[str] = "lots"
    moves_inputs: ClassVar[bool] = True
    layer: str | None = None
    steps: int = 8
    step_size: Number = 1 / 255
    clean_weight: float = 0.5
    input_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        at_least_one(steps=self.steps)
        self.step_size = non_negative(self.step_size, "step_size")
        if not 0 < self.clean_weight < 1:
            raise ConfigurationError(
                f"clean_weight is {self.clean_weight}; give a weight between 0 and 1."
            )

    @property
    def passes(self) -> float:
        """At most one a step, and one for each loss."""
        return self.steps + 2.0

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        found = default_sites(network)[-1:] if self.layer is None else [self.layer]
        names = resolve_sites(network, found)
        if len(names) > 1:
            raise ConfigurationError(f"layer is {self.layer!r}; name one of {', '.join(names)}.")
        self._layer = names[0]
        self._hooks = SiteHooks(network, names, stack)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the mixed one, the outputs are the moved images'."""
        with self._hooks.capturing() as seen:
            answers = model(batch.inputs)
            clean = self.clean_weight * criterion(answers, batch.targets)
            backward(clean)
        if self._layer not in seen.at:
            raise SiteError(f"Layer {self._layer!r} did not run; name one that the network uses.")
        task = task_of(criterion, answers, batch.targets)
        # Where a position has no class, that which the network says of it is as good.
        predicted, classes = task.predictions(answers), task.class_targets(answers, batch.targets)
        classes = classes.argmax(1) if classes.is_floating_point() else classes
        classes = torch.where(classes == task.ignore_index, predicted, classes)
        moved = self.moved(batch, seen.at[self._layer].detach(), classes, task)
        self.notice(moved - batch.inputs)
        outputs = model(moved)
        loss = (1 - self.clean_weight) * criterion(outputs, batch.targets)
        backward(loss)
        return StepOutput.of(clean + loss, outputs, batch.targets, criterion)

    def moved(self, batch: Batch, features: Tensor, classes: Tensor, task: Task) -> Tensor:
        """The mini-batch's images moved towards the features, (B, ...), of others in it.

        Args:
            batch: The mini-batch.
            features: (B, ...) the layer's output for it.
            classes: (B,) its classes, or (B, ...) a class for each label or position.
            task: What the network's outputs mean.
        """
        kinds = classes
        if classes.ndim > 1:
            kinds = classes.flatten(1).unique(dim=0, return_inverse=True)[1]
        order = pairing_order(kinds, kinds)
        assert order is not None  # every position holds its own class before
        goal = Goal(self._layer, features[order], classes[order], task=task)
        with self.extra_pass() as network:
            return descend(
                network, batch.inputs, goal, self.steps, float(self.step_size), self.limits
            ).images
