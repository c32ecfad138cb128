"""AutoAttack and its Square attack (Croce, Hein 2020), run by its authors' `pyautoattack`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.checks import (
    at_least_one,
    in_evaluation_mode,
    inputs_within,
    not_probabilities,
    within_range,
)
from advreg.attacks.threat import L2, Linf, Threat
from advreg.errors import ConfigurationError

TARGETS = 9
"""Classes that the targeted parts of the standard version try."""

QUERIES = 5000
"""Of Square in the standard version."""


def has_autoattack() -> bool:
    """Whether the package that runs these attacks is installed."""
    return find_spec("pyautoattack") is not None


def need_autoattack() -> None:
    """Refuses to go on without the package that runs these attacks.

    Raises:
        ConfigurationError: It is not installed.
    """
    if not has_autoattack():
        raise ConfigurationError(
            "AutoAttack and Square need the package pyautoattack;"
            " install it with: pip install 'advreg[attacks]'"
        )


def autoattack(
    model: nn.Module, inputs: Tensor, targets: Tensor, threat: Threat, *, seed: int = 0
) -> Tensor:
    """AutoAttack's standard version: APGD-CE, targeted APGD-DLR, targeted FAB and Square.

    With fewer than ten classes its targeted parts try all the others instead of nine.

    Args:
        model: Maps inputs to (B, K) logits, K at least 4; in evaluation mode.
        inputs: (B, C, H, W) in [0, 1].
        targets: (B,) the true classes.
        threat: `Linf` or `L2`.
        seed: Of its random draws; the global random state is left alone.

    Returns:
        (B, C, H, W): a bad input where one was found, the untouched one elsewhere.

    Raises:
        ConfigurationError: The package is missing, the model is in training mode or returns no
            logits, or epsilon or the inputs do not fit [0, 1].
    """

    def fit(adversary: Any, classes: int) -> None:
        if classes < 4:
            raise ConfigurationError(
                f"AutoAttack's standard version needs at least 4 classes and there are {classes};"
                " use PGD and Square."
            )
        adversary.apgd_targeted.n_target_classes = min(TARGETS, classes - 1)
        adversary.fab.n_target_classes = min(TARGETS, classes - 1)

    return _run(model, inputs, targets, threat, fit, seed=seed, version="standard")


def square(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    threat: Threat,
    *,
    queries: int = QUERIES,
    seed: int = 0,
) -> Tensor:
    """AutoAttack's Square attack alone, which sees outputs and no gradient.

    Args, result and errors are those of `autoattack`; the model may have any number of classes.

    Args:
        model: As there.
        inputs: As there.
        targets: As there.
        threat: As there.
        queries: Forward passes at most for an example.
        seed: As there.
    """
    at_least_one(queries=queries)

    def fit(adversary: Any, classes: int) -> None:
        adversary.square.n_queries = queries
        # Its squares shrink as queries pass, by a schedule meant for the full number: with fewer
        # of them it would end on squares that are still too large.
        adversary.square.rescale_schedule = queries < QUERIES

    return _run(
        model, inputs, targets, threat, fit, seed=seed, version="custom", attacks=["square"]
    )


def _run(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    threat: Threat,
    fit: Callable[[Any, int], None],
    **settings: Any,
) -> Tensor:
    need_autoattack()
    if type(threat) not in (Linf, L2):
        raise ConfigurationError(f"AutoAttack knows no {threat!r}; give Linf or L2.")
    in_evaluation_mode(model)
    within_range(threat, inputs, (0.0, 1.0))
    inputs_within(inputs, (0.0, 1.0))
    with torch.inference_mode(False), torch.no_grad(), _undisturbed(model):
        inputs, targets = inputs.detach().clone(), targets.clone()
        outputs = model(inputs)
        not_probabilities(outputs)
        adversary = import_module("pyautoattack").AutoAttack(
            _Connected(model),
            norm=type(threat).__name__,
            eps=threat.epsilon,
            device=inputs.device,
            **settings,
        )
        fit(adversary, outputs.shape[1])
        attacked, _ = adversary.run_standard_evaluation(inputs, targets, batch_size=len(inputs))
    return attacked.detach()


class _Connected(nn.Module):
    """The model, its outputs always a differentiable function of its inputs.

    One that cuts the gradient has a gradient of zero; the package would stop with an error.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs)
        if inputs.requires_grad and torch.is_grad_enabled() and not outputs.requires_grad:
            return outputs + 0 * inputs.flatten(1).sum(1, keepdim=True)
        return outputs


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Keeps the package from changing weight gradients, random states, tracing and the log."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    level = logger.level
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        logger.setLevel(logging.ERROR)  # what it warns of, our evidence rows say with figures
        with torch.random.fork_rng():
            yield
    finally:
        sys.settrace(trace)
        logger.setLevel(level)
        for parameter in wanted:
            parameter.requires_grad_()
