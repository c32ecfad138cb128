"""LOTS: moving an image until a layer shows another image's features."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advreg import _torch_compat
from advreg.checks import Range, check_inputs, check_range, check_targets
from advreg.errors import ConfigurationError, DataError, SiteError
from advreg.layerwise import paused
from advreg.layerwise.hooks import site_hooks
from advreg.layerwise.sites import INPUT, resolve_sites
from advreg.losses import Task, task_of
from advreg.modes import check_model, check_statistics_frozen
from advreg.tensors import column, finite, rows, wide
from advreg.units import Number, at_least_one, non_negative


class LotsResult(NamedTuple):
    """What LOTS reached, example by example.

    Attributes:
        images: (B, ...) the moved origins, in their type.
        steps: (B,) int64, steps taken.
        distances: (B,) Euclidean distance to the target's features.
        success: (B,) bool, whether a condition to stop was met within the step limit.
        moved: (B,) Euclidean distance between the image and its origin.
        curve: (B, steps + 1) the distance before the first step and after each one; an example
            that has stopped keeps its last.
    """

    images: Tensor
    steps: Tensor
    distances: Tensor
    success: Tensor
    moved: Tensor
    curve: Tensor


def lots(
    model: nn.Module,
    origins: Tensor,
    targets: Tensor,
    layer: str,
    steps: int = 100,
    threshold: Number | None = None,
    *,
    share: Number | None = None,
    until_class: bool = True,
    classes: Tensor | None = None,
    step_size: Number = 1 / 255,
    input_range: Range | None = (0.0, 1.0),
) -> LotsResult:
    """Layerwise origin-target synthesis (Rozsa, Guenther and Boult, arXiv 1611.06179).

    Descends 1/2 |f(target) - f(x)|_2^2 of the layer's features f from the origin:
    x <- clip(x - step_size * g / max|g|), each example by itself until it meets a condition to
    stop and out of the batch, unless a module in training mode may couple the examples. The
    network runs in the mode that it is in, an attached adversary paused, and is left as it is.

    Args:
        model: Maps images to logits (B, K), (B, K, ...), or (B,) or (B, 1) of yes or no.
        origins: (B, ...) the images to move, floating point, within `input_range`.
        targets: (B, ...) the images whose features to reach, one an origin.
        layer: The dotted name of the module whose output is matched, or "input".
        steps: The most steps an example takes.
        threshold: Stop at this distance of the features or under it; None does not.
        share: Stop at this share, from 0 to 1, of the origin's own distance; None does not.
        until_class: Stop when the image is classified as the target is.
        classes: (B, ...) the classes to reach, a class for each position where there are several;
            None is what the network says of the targets.
        step_size: The most that a pixel moves in a step.
        input_range: What the images are clamped into; None for no limits.

    Raises:
        ConfigurationError: A setting cannot work, the images lie outside their range, origins and
            targets do not match, or batch statistics would change.
        DataError: The model returns no logits, or the classes do not fit them.
        SiteError: There is no such layer, or it did not run.
    """
    input_range = check_range(input_range)
    check_model(model)
    check_statistics_frozen(model)
    for images in (origins, targets):
        check_inputs(images, input_range)
    if origins.shape != targets.shape:
        raise ConfigurationError(
            f"The origins are {tuple(origins.shape)} and the targets {tuple(targets.shape)};"
            " give one target image for each origin."
        )
    at_least_one(steps=steps)
    limit = None if threshold is None else non_negative(threshold, "threshold")
    part = None if share is None else non_negative(share, "share")
    if part is not None and part >= 1:
        raise ConfigurationError(
            f"share is {share!r}; give a share of the first distance, at least 0 and under 1."
        )
    size = non_negative(step_size, "step_size")
    with torch.inference_mode(False), _torch_compat.no_grad(), paused(model):
        layer = one_layer(model, layer)
        features, outputs = features_of(model, targets, layer)
        task = task_of(None, outputs)
        reached = task.predictions(outputs)
        check_targets(origins, reached)
        wanted = reached if classes is None else _classes_like(reached, classes)
        goal = Goal(layer, features, wanted if until_class else None, limit, part, task)
        images, taken, stopped, curve = descend(model, origins, goal, steps, size, input_range)
        distances, success = goal.starting(curve[:, 0]).judge(*features_of(model, images, layer))
    before = torch.arange(steps + 1, device=curve.device) < taken[:, None]
    curve = torch.where(before, curve, distances[:, None])
    moved = rows(wide(images) - wide(origins)).norm(dim=1)
    return LotsResult(images, taken, distances, success | stopped, moved, curve)


class Goal(NamedTuple):
    """What a descent is for.

    Attributes:
        layer: Whose features are matched, by its one name.
        features: (B, ...) the target's.
        classes: (B,), or (B, ...) a class each position, whose reaching stops an example; None
            does not.
        threshold: The distance of the features that stops an example, or (B,) one each; None
            does not.
        share: The share of the first distance that does; None does not.
        task: What the network's outputs mean; None finds it by their shape.
    """

    layer: str
    features: Tensor
    classes: Tensor | None = None
    threshold: float | Tensor | None = None
    share: float | None = None
    task: Task | None = None

    def starting(self, distances: Tensor) -> Goal:
        """With the share as thresholds, for examples that are so far away, (B,), at first."""
        if self.share is None:
            return self
        least = self.share * distances
        if self.threshold is not None:
            least = least.clamp(min=self.threshold)
        return self._replace(threshold=least, share=None)

    def of(self, examples: Tensor) -> Goal:
        """The same for some of the examples, (N,) their places."""
        return self._replace(
            features=self.features[examples],
            classes=None if self.classes is None else self.classes[examples],
            threshold=(
                self.threshold[examples] if isinstance(self.threshold, Tensor) else self.threshold
            ),
        )

    def judge(self, features: Tensor, outputs: Any) -> tuple[Tensor, Tensor]:
        """Each example's distance to the target's features, and whether it may stop."""
        distances = self.distances(features)
        stop = torch.zeros_like(distances, dtype=torch.bool)
        if self.classes is not None:
            task = task_of(None, outputs) if self.task is None else self.task
            same = task.predictions(outputs) == self.classes
            stop |= same.reshape(len(same), -1).all(1)
        if self.threshold is not None:
            stop |= distances <= self.threshold
        return distances, stop

    def distances(self, features: Tensor) -> Tensor:
        """(B,) Euclidean distances to the target's features."""
        return rows(features - self.features).norm(dim=1)


class Descent(NamedTuple):
    """Where a descent came to.

    Attributes:
        images: (B, ...) in the origins' type.
        steps: (B,) int64, steps taken.
        stopped: (B,) bool, which left the batch.
        curve: (B, steps + 1) the distance before each step that was taken; then nothing of use.
    """

    images: Tensor
    steps: Tensor
    stopped: Tensor
    curve: Tensor


def descend(
    model: nn.Module,
    origins: Tensor,
    goal: Goal,
    steps: int,
    size: float,
    input_range: Range | None,
) -> Descent:
    """The steps of `lots`, a forward and a backward pass each over those that still move."""
    images = wide(origins.detach()).clone()  # half precision would swallow the steps
    moving = torch.arange(len(origins), device=origins.device)
    taken, stopped = torch.zeros_like(moving), torch.zeros_like(moving, dtype=torch.bool)
    curve = images.new_zeros(len(origins), steps + 1)
    # Batch normalisation in training mode couples the examples: there, those that stopped stay.
    coupled = any(module.training for module in model.modules())
    for step in range(steps):
        with torch.enable_grad():
            leaf = images[moving].to(origins.dtype).requires_grad_()
            features, outputs = features_of(model, leaf, goal.layer)
            loss = rows(features - goal.features).square().sum() / 2
            if step == 0:
                curve[:, 0] = goal.distances(features.detach())
                goal = goal.starting(curve[:, 0])
            curve[moving, step], stop = goal.judge(features.detach(), outputs)
            if not coupled:
                stopped[moving] = stop
            if bool(stop.all()):
                break
            if not loss.requires_grad:
                break
            (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
            if gradient is None:  # the features do not depend on the images differentiably
                break
        gradient = finite(wide(gradient))
        largest = gradient.flatten(1).abs().amax(1)
        # Where no pixel matters to the layer there is nowhere to go.
        pace = torch.where(stop | (largest == 0), 0, size / largest)
        moved = images[moving] - column(pace, gradient) * gradient
        if input_range is not None:
            moved = moved.clamp(*input_range)
        images[moving] = moved
        taken[moving] += ~stop
        if not coupled and bool(stop.any()):
            left = (~stop).nonzero().flatten()
            moving, goal = moving[left], goal.of(left)
    return Descent(images.to(origins.dtype), taken, stopped, curve)


def one_layer(model: nn.Module, layer: str) -> str:
    """The name of the one layer that a name or a glob stands for.

    Raises:
        SiteError: There is no such layer, or several fit.
    """
    names = resolve_sites(model, [layer])
    if len(names) > 1:
        raise SiteError(f"LOTS matches one layer; {layer!r} is {', '.join(names)}: name one.")
    return names[0]


def features_of(model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Any]:
    """A layer's output for images, and what the network returns.

    Raises:
        SiteError: The layer did not run.
    """
    if layer == INPUT:
        return images, model(images)
    caught, outputs = _caught(model, layer, images)
    if not caught:
        raise SiteError(f"Layer {layer!r} did not run; name one that the forward pass reaches.")
    return caught[-1], outputs


def _caught(model: nn.Module, site: str, images: Tensor) -> tuple[list[Tensor], Any]:
    """What a site handed on in one forward pass, call by call, and what the network returned."""
    caught = []
    with site_hooks(model, [site], lambda site, tensor: caught.append(tensor.clone())):
        return caught, model(images)  # cloned, since the next layer may work in place


def _classes_like(predictions: Tensor, classes: Tensor) -> Tensor:
    if (
        classes.is_floating_point()
        or classes.is_complex()
        or classes.numel() != predictions.numel()
    ):
        raise DataError(
            f"The classes to reach are {classes.dtype} of shape {tuple(classes.shape)}; give"
            f" integers of shape {tuple(predictions.shape)}."
        )
    return classes.long().view_as(predictions)
