"""Attacks that follow the gradient of the loss at the input."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from advreg import _torch_compat
from advreg.attacks.threat import Threat, check_threat
from advreg.checks import Range, check_logits, check_range, check_targets, types_explained
from advreg.errors import ConfigurationError, EmptyPerturbationWarning
from advreg.layerwise import paused
from advreg.losses import (
    Criterion,
    adapt_criterion,
    cross_entropies,
    is_cross_entropy,
    task_of,
)
from advreg.modes import check_model, check_statistics_frozen
from advreg.tensors import column, finite, round_towards, wide
from advreg.units import Number, at_least_one, non_negative


def input_gradient(
    model: nn.Module, inputs: Tensor, targets: Tensor, criterion: Criterion = cross_entropies
) -> Tensor:
    """The gradient of each example's own loss with respect to it.

    The network runs in the mode that it is in, an attached adversary paused; its parameters receive
    no gradient, whatever the gradient mode around the call.

    Args:
        model: Maps inputs to outputs.
        inputs: (B, ...) floating point.
        targets: What `criterion` compares the outputs with.
        criterion: The loss, see `advreg.losses.adapt_criterion`: of each example, or their mean.

    Returns:
        The gradient in the inputs' shape, of the losses' sum, so that it does not depend on the
        batch size; zero where the outputs do not depend on the inputs differentiably.
    """
    with paused(model), types_explained(model, inputs):
        return _gradient(model, inputs, targets, criterion)


def _gradient(model: nn.Module, inputs: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        targets = targets.clone() if targets.is_inference() else targets
        losses = adapt_criterion(criterion)(model(leaf), targets)
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
    criterion: Criterion = cross_entropies,
    input_range: Range | None = (0.0, 1.0),
    targeted: bool = False,
) -> Tensor:
    """One step of the whole budget, x + epsilon * sign(g) under L-infinity (Goodfellow 2015).

    Args, result and errors are those of `pgd`.
    """
    check_threat(threat)
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
    criterion: Criterion = cross_entropies,
    input_range: Range | None = (0.0, 1.0),
) -> Tensor:
    """Projected gradient ascent on the loss (Madry 2018).

    delta <- project(delta + step_size * direction(g)), the sum clamped into the input range. The
    network runs in the mode that it is in, its batch statistics frozen where that is training and
    an attached adversary paused; it and the inputs are left as they are.

    Args:
        model: Maps inputs to logits (B, K), (B, K, ...), (B,) or (B, 1), or to a tuple or mapping
            that holds them.
        inputs: (B, ...) floating point, within `input_range`.
        targets: The true classes (B,) of any integer type, or those to reach where `targeted`; 0
            and 1 for one logit; probabilities in the outputs' shape.
        threat: The threat model, `Linf` or `L2`.
        steps: Gradients taken a run.
        step_size: Length of a step; 2.5 * epsilon / steps where not given.
        restarts: Runs; of each example the worst result is kept: a success before a failure, then
            the higher loss (the lower where `targeted`). Under L2 the first starts at the input.
        random_start: Whether a run begins at a random point of the ball or at the input.
        momentum: Weight of the earlier gradients, each divided by its L1 norm (Dong 2018).
        targeted: Whether to go towards the targets instead of away from them.
        generator: Where the random starts come from.
        criterion: The loss that is followed, and by which outputs are classes or, for several
            labels an example, nn.BCEWithLogitsLoss; without reduction where there are restarts.
        input_range: What the result is clamped into; None for no limits.

    Returns:
        The attacked inputs, detached, in the inputs' shape and type.

    Raises:
        ConfigurationError: A count is under one, a size negative, epsilon larger than the range,
            the inputs outside it, there are restarts that cannot differ or be compared, the model
            returns probabilities to the cross entropy, or batch statistics would change.
        DataError: The model returns no logits, or the targets do not fit them.
    """
    at_least_one(steps=steps, restarts=restarts)
    check_model(model)
    check_threat(threat)
    input_range = check_range(input_range)
    threat.check(inputs, input_range)
    check_targets(inputs, targets)
    check_statistics_frozen(model)
    if restarts > 1 and not random_start:
        raise ConfigurationError(
            f"{restarts} restarts without a random start repeat one attack; turn random_start on."
        )
    size = non_negative(
        2.5 * threat.epsilon / steps if step_size is None else step_size, "step_size"
    )
    momentum = non_negative(momentum, "momentum")
    losses = _examining(criterion)
    towards = -1.0 if targeted else 1.0
    worst: _Result | None = None
    with (
        torch.inference_mode(False),
        _torch_compat.no_grad(),
        paused(model),
        types_explained(model, inputs),
    ):
        inputs = inputs.detach()
        exact = wide(inputs)
        for run in range(restarts):
            at_inputs = not random_start or (restarts > 1 and not run and threat.starts_at_inputs)
            delta = torch.zeros_like(exact) if at_inputs else threat.start(exact, generator)
            # In half precision a step is less than rounding; the sum of the steps is not.
            moved = _clamp(exact + delta, input_range)
            velocity = torch.zeros_like(exact)
            for step in range(steps):
                attacked = round_towards(inputs, moved)
                gradient = towards * finite(_gradient(model, attacked, targets, losses))
                if _WARNS.get() and inputs.is_cpu and not (run or step or gradient.any()):
                    _warn_of_no_gradient()
                gradient = wide(gradient)
                if momentum:
                    gradient = velocity = momentum * velocity + _unit_l1(gradient)
                delta = threat.project(threat.step(moved - exact, gradient, size))
                moved = _clamp(exact + delta, input_range)
            attacked = round_towards(inputs, moved)
            if restarts > 1:
                result = _judge(model, attacked, targets, targeted, criterion)
                worst = result if worst is None else _worse(worst, result)
                attacked = worst.attacked
    return attacked


_WARNS = ContextVar("_WARNS", default=True)


@contextmanager
def unwarned() -> Iterator[None]:
    """Within it nobody is warned of inputs without a gradient: whoever attacks says so himself."""
    token = _WARNS.set(False)
    try:
        yield
    finally:
        _WARNS.reset(token)


def _warn_of_no_gradient() -> None:
    warnings.warn(
        "The loss has no gradient at any of the inputs, so that the attack follows none: the"
        " network hides it, its outputs are not finite, or no target counts.",
        EmptyPerturbationWarning,
        stacklevel=3,
    )


def _examining(criterion: Criterion) -> Criterion:
    """The criterion for one attack; a cross entropy examines the first outputs that it is given."""
    losses, examined = adapt_criterion(criterion), not is_cross_entropy(criterion)

    def examining(outputs: Any, targets: Tensor) -> Tensor:
        nonlocal examined
        if not examined:
            check_logits(task_of(criterion, outputs, targets).class_logits(outputs))
        examined = True
        return losses(outputs, targets)

    return examining


class _Result(NamedTuple):
    """What one run reached: inputs (B, ...), success (B,) bool, strength (B,)."""

    attacked: Tensor
    success: Tensor
    strength: Tensor


def _judge(
    model: nn.Module, attacked: Tensor, targets: Tensor, targeted: bool, criterion: Criterion
) -> _Result:
    outputs = model(attacked)
    losses = adapt_criterion(criterion)(outputs, targets)
    if losses.shape[:1] != attacked.shape[:1]:
        raise ConfigurationError(
            "Restarts are compared example by example; give a criterion without reduction."
        )
    losses = losses.reshape(len(losses), -1).mean(1)
    strength = (-losses if targeted else losses).nan_to_num(float("inf"))
    task = task_of(criterion, outputs, targets)
    # What a regression gets wrong is a matter of degree, which its loss says.
    success = torch.zeros_like(strength, dtype=torch.bool)
    if task.kind != "regression":
        success = task.correct(outputs, targets) == targeted
    return _Result(attacked, success, strength)


def _worse(first: _Result, second: _Result) -> _Result:
    """Of each example the one of two results that is worse for the model."""
    stronger = second.strength > first.strength
    take = torch.where(first.success == second.success, stronger, second.success)
    return _Result(
        torch.where(column(take, first.attacked), second.attacked, first.attacked),
        first.success | second.success,
        torch.where(take, second.strength, first.strength),
    )


def _unit_l1(gradient: Tensor) -> Tensor:
    return functional.normalize(gradient.flatten(1), p=1, dim=1, eps=1e-30).view_as(gradient)


def _clamp(inputs: Tensor, input_range: Range | None) -> Tensor:
    return inputs if input_range is None else inputs.clamp(*input_range)
