"""LOTS: moving an image until a layer shows another image's features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advreg.attacks.checks import Range, at_least_one
from advreg.attacks.threat import finite
from advreg.errors import ConfigurationError, SiteError
from advreg.layerwise.sites import INPUT, resolve_sites
from advreg.inputs import find_tensor
from advreg.units import Number, non_negative


class LotsResult(NamedTuple):
    """What LOTS reached, example by example.

    Attributes:
        images: (B, ...) the moved origins, in their type.
        steps: (B,) int64, steps taken.
        distances: (B,) Euclidean distance to the target's features.
        success: (B,) bool, whether a condition to stop was met within the step limit.
        moved: (B,) Euclidean distance between the image and its origin.
    """

    images: Tensor
    steps: Tensor
    distances: Tensor
    success: Tensor
    moved: Tensor


def lots(
    model: nn.Module,
    origins: Tensor,
    targets: Tensor,
    layer: str,
    steps: int = 100,
    threshold: Number | None = None,
    *,
    until_class: bool = True,
    classes: Tensor | None = None,
    step_size: Number = 1 / 255,
    input_range: Range | None = (0.0, 1.0),
) -> LotsResult:
    """Layerwise origin-target synthesis (Rozsa, Guenther and Boult, arXiv 1611.06179).

    Descends 1/2 |f(target) - f(x)|_2^2 of the layer's features f from the origin:
    x <- clip(x - step_size * g / max|g|), each example by itself until it meets a condition to
    stop. The network runs in the mode that it is in, and is left as it is.

    Args:
        model: Maps images to (B, K) logits.
        origins: (B, ...) the images to move, floating point.
        targets: (B, ...) the images whose features to reach, one an origin.
        layer: The dotted name of the module whose output is matched, or "input".
        steps: The most steps an example takes.
        threshold: Stop at this distance of the features or under it; None does not.
        until_class: Stop when the image is classified as the target is.
        classes: (B,) the classes to reach; None is what the network says of the targets.
        step_size: The most that a pixel moves in a step.
        input_range: What the images are clamped into; None for no limits.

    Raises:
        ConfigurationError: A setting cannot work, or origins and targets do not match.
        SiteError: There is no such layer, or it did not run.
    """
    if origins.shape != targets.shape:
        raise ConfigurationError(
            f"The origins are {tuple(origins.shape)} and the targets {tuple(targets.shape)};"
            " give one target image for each origin."
        )
    at_least_one(steps=steps)
    limit = None if threshold is None else non_negative(threshold, "threshold")
    size = non_negative(step_size, "step_size")
    with torch.inference_mode(False), torch.no_grad():
        features, outputs = features_of(model, targets, layer)
        wanted = outputs.argmax(1) if classes is None else classes
        goal = Goal(layer, features, wanted if until_class else None, limit)
        images, taken = descend(model, origins, goal, steps, size, input_range)
        distances, success = goal.judge(*features_of(model, images, layer))
    moved = _rows(images - origins).norm(dim=1)
    return LotsResult(images, taken, distances, success, moved)


def invariance_to_class(
    model: nn.Module, origins: Tensor, targets: Tensor, layers: Iterable[str], **options: Any
) -> dict[str, float]:
    """How far images must move, matching one layer, until they are classified as their targets.

    Args:
        model: Maps images to (B, K) logits, in evaluation mode.
        origins: (B, ...) images.
        targets: (B, ...) images, each of another class than its origin.
        layers: The layers to compare.
        options: Further settings of `lots`.

    Returns:
        By layer the median Euclidean distance, in which origins that do not get there within the
        step limit count as infinitely far.
    """
    distances = {}
    for layer in layers:
        result = lots(model, origins, targets, layer, **options)
        far = torch.where(result.success, result.moved, torch.inf)
        distances[layer] = far.quantile(0.5, interpolation="lower").item()
    return distances


class Goal(NamedTuple):
    """What a descent is for.

    Attributes:
        layer: Whose features are matched.
        features: (B, ...) the target's.
        classes: (B,) whose reaching stops an example; None does not.
        threshold: The distance of the features that stops an example; None does not.
    """

    layer: str
    features: Tensor
    classes: Tensor | None = None
    threshold: float | None = None

    def judge(self, features: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Each example's distance to the target's features, and whether it may stop."""
        distances = _rows(features - self.features).norm(dim=1)
        stop = torch.zeros_like(distances, dtype=torch.bool)
        if self.classes is not None:
            stop |= outputs.argmax(1) == self.classes
        if self.threshold is not None:
            stop |= distances <= self.threshold
        return distances, stop


def descend(
    model: nn.Module,
    origins: Tensor,
    goal: Goal,
    steps: int,
    size: float,
    input_range: Range | None,
) -> tuple[Tensor, Tensor]:
    """The steps of `lots`, a forward and a backward pass each.

    Returns:
        The images, and the steps that each took, (B,) int64.
    """
    images = origins.detach()
    taken = torch.zeros(len(origins), dtype=torch.int64, device=origins.device)
    for _ in range(steps):
        with torch.enable_grad():
            leaf = images.clone().requires_grad_()
            features, outputs = features_of(model, leaf, goal.layer)
            loss = _rows(features - goal.features).square().sum() / 2
            _, stop = goal.judge(features.detach(), outputs.detach())
            if bool(stop.all()):
                break
            (gradient,) = torch.autograd.grad(loss, leaf)
        largest = finite(gradient).flatten(1).abs().amax(1)
        # Where no pixel matters to the layer there is nowhere to go.
        pace = torch.where(stop | (largest == 0), 0, size / largest)
        images = images - _column(pace, images) * finite(gradient)
        if input_range is not None:
            images = images.clamp(*input_range)
        taken += ~stop
    return images, taken


def features_of(model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """A layer's output for images, and the network's.

    Raises:
        SiteError: There is no such layer, several fit, or it did not run.
    """
    names = resolve_sites(model, [layer])
    if len(names) > 1:
        raise SiteError(f"LOTS matches one layer; {layer!r} is {', '.join(names)}: name one.")
    if names == [INPUT]:
        return images, model(images)
    caught = []

    def catch(module: nn.Module, args: Any, output: Any) -> None:
        found = find_tensor(output)
        if found is not None:
            caught.append(found[0].clone())  # the next layer may work in place

    handle = model.get_submodule(names[0]).register_forward_hook(catch)
    try:
        outputs = model(images)
    finally:
        handle.remove()
    if not caught:
        raise SiteError(f"Layer {layer!r} did not run; name one that the forward pass reaches.")
    return caught[-1], outputs


def _rows(tensor: Tensor) -> Tensor:
    """(B, ...) as (B, N), in at least float32."""
    return tensor.flatten(1).to(torch.promote_types(tensor.dtype, torch.float32))


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values in the shape and type that multiply the examples of `like`, (B, ...)."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
