"""Attacks that follow the gradient of the loss at the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from advreg.attacks.checks import (
    Range,
    at_least_one,
    inputs_within,
    not_probabilities,
    statistics_stay,
    within_range,
)
from advreg.attacks.threat import Threat, finite
from advreg.errors import ConfigurationError
from advreg.units import Number, non_negative

Losses = Callable[[Tensor, Tensor], Tensor]
"""Takes outputs and targets; returns (B,) losses, or their mean where one run is enough."""


def cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy of each example, (B,), in at least float32."""
    precision = torch.promote_types(outputs.dtype, torch.float32)
    return functional.cross_entropy(outputs.to(precision), targets, reduction="none")


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which examples are classified correctly.

    Args:
        outputs: (B, K) logits.
        targets: (B,) classes, or (B, K) class probabilities.

    Returns:
        (B,) bool; an example whose logits are not all finite is not correct.
    """
    classes = targets if targets.ndim == 1 else targets.argmax(1)
    return (outputs.argmax(1) == classes) & outputs.isfinite().all(1)


def input_gradient(
    model: nn.Module, inputs: Tensor, targets: Tensor, criterion: Losses = cross_entropies
) -> Tensor:
    """The gradient of each example's own loss with respect to it.

    The network runs in the mode that it is in; its parameters receive no gradient, whatever the
    gradient mode around the call.

    Args:
        model: Maps inputs to outputs.
        inputs: (B, ...) floating point.
        targets: What `criterion` compares the outputs with.
        criterion: The loss.

    Returns:
        The gradient in the inputs' shape, of the losses' sum, so that it does not depend on the
        batch size; zero where the outputs do not depend on the inputs differentiably.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        losses = criterion(model(leaf), targets.clone())
        total = losses.sum() if losses.ndim else losses * len(inputs)
        gradient = None
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
        return torch.zeros_like(inputs) if gradient is None else gradient


def fgsm(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    threat: Threat,
    *,
    criterion: Losses = cross_entropies,
    input_range: Range | None = (0.0, 1.0),
    targeted: bool = False,
) -> Tensor:
    """One step of the whole budget, x + epsilon * sign(g) under L-infinity (Goodfellow 2015).

    Args, result and errors are those of `pgd`.
    """
    return pgd(
        model,
        inputs,
        targets,
        threat,
        steps=1,
        step_size=threat.epsilon,
        random_start=False,
        targeted=targeted,
        criterion=criterion,
        input_range=input_range,
    )


def pgd(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    threat: Threat,
    steps: int = 20,
    step_size: Number | None = None,
    restarts: int = 1,
    random_start: bool = True,
    *,
    momentum: float = 0.0,
    targeted: bool = False,
    generator: torch.Generator | None = None,
    criterion: Losses = cross_entropies,
    input_range: Range | None = (0.0, 1.0),
) -> Tensor:
    """Projected gradient ascent on the loss (Madry 2018).

    delta <- project(delta + step_size * direction(g)), the sum clamped into the input range. The
    network runs in the mode that it is in, its batch statistics frozen where that is training; it
    and the inputs are left as they are.

    Args:
        model: Maps inputs to (B, K) logits.
        inputs: (B, ...) floating point, within `input_range`.
        targets: The true classes (B,), or the ones to reach where `targeted`.
        threat: The threat model, `Linf` or `L2`.
        steps: Gradients taken a run.
        step_size: Length of a step; 2.5 * epsilon / steps where not given.
        restarts: Runs; of each example the worst result is kept: a success before a failure, then
            the higher loss (the lower where `targeted`).
        random_start: Whether a run begins at a random point of the ball or at the input.
        momentum: Weight of the earlier gradients, each divided by its L1 norm (Dong 2018).
        targeted: Whether to go towards the targets instead of away from them.
        generator: Where the random starts come from.
        criterion: The loss that is followed; (B,) losses where there are restarts.
        input_range: What the result is clamped into; None for no limits.

    Returns:
        The attacked inputs, detached, in the inputs' shape and type.

    Raises:
        ConfigurationError: A count is under one, a size negative, epsilon larger than the range,
            the inputs outside it, there are restarts that cannot differ or be compared, the model
            returns probabilities to the cross entropy, or batch statistics would change.
    """
    at_least_one(steps=steps, restarts=restarts)
    within_range(threat, inputs, input_range)
    inputs_within(inputs, input_range)
    statistics_stay(model)
    if restarts > 1 and not random_start:
        raise ConfigurationError(
            f"{restarts} restarts without a random start repeat one attack; turn random_start on."
        )
    size = non_negative(
        2.5 * threat.epsilon / steps if step_size is None else step_size, "step_size"
    )
    momentum = non_negative(momentum, "momentum")
    if criterion is cross_entropies:
        criterion = _of_logits()
    towards = -1.0 if targeted else 1.0
    worst: _Result | None = None
    with torch.inference_mode(False), torch.no_grad():
        inputs = inputs.detach()
        for _ in range(restarts):
            delta = threat.start(inputs, generator) if random_start else torch.zeros_like(inputs)
            attacked = _clamp(inputs + delta, input_range)
            velocity = torch.zeros_like(inputs)
            for _ in range(steps):
                gradient = towards * finite(input_gradient(model, attacked, targets, criterion))
                if momentum:
                    gradient = velocity = momentum * velocity + _unit_l1(gradient)
                delta = threat.project(threat.step(attacked - inputs, gradient, size))
                attacked = _clamp(inputs + delta, input_range)
            if restarts > 1:
                result = _judge(model, attacked, targets, targeted, criterion)
                worst = result if worst is None else _worse(worst, result)
                attacked = worst.attacked
    return attacked


def _of_logits() -> Losses:
    """The cross entropies; they look at the first outputs that they are given."""
    looked = False

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal looked
        if not looked:
            not_probabilities(outputs)
        looked = True
        return cross_entropies(outputs, targets)

    return losses


class _Result(NamedTuple):
    """What one run reached: inputs (B, ...), success (B,) bool, strength (B,)."""

    attacked: Tensor
    success: Tensor
    strength: Tensor


def _judge(
    model: nn.Module, attacked: Tensor, targets: Tensor, targeted: bool, criterion: Losses
) -> _Result:
    outputs = model(attacked)
    losses = criterion(outputs, targets)
    if losses.shape != attacked.shape[:1]:
        raise ConfigurationError(
            "Restarts are compared example by example; give a criterion without reduction."
        )
    strength = (-losses if targeted else losses).nan_to_num(float("inf"))
    return _Result(attacked, correct(outputs, targets) == targeted, strength)


def _worse(first: _Result, second: _Result) -> _Result:
    """Of each example the one of two results that is worse for the model."""
    stronger = second.strength > first.strength
    take = torch.where(first.success == second.success, stronger, second.success)
    rows = take.view(-1, *[1] * (first.attacked.ndim - 1))
    return _Result(
        torch.where(rows, second.attacked, first.attacked),
        first.success | second.success,
        torch.where(take, second.strength, first.strength),
    )


def _unit_l1(gradient: Tensor) -> Tensor:
    return functional.normalize(gradient.flatten(1), p=1, dim=1, eps=1e-30).view_as(gradient)


def _clamp(inputs: Tensor, input_range: Range | None) -> Tensor:
    return inputs if input_range is None else inputs.clamp(*input_range)
