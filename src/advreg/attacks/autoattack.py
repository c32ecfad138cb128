"""AutoAttack and its Square attack (Croce, Hein 2020), run by its authors' `pyautoattack`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.threat import L2, Linf, Threat
from advreg.checks import check_logits, check_no_sigmoid, check_targets
from advreg.errors import ConfigurationError
from advreg.extras import require
from advreg.inputs import logits_of
from advreg.layerwise import paused
from advreg.losses import single_labels, task_of
from advreg.losses.targets import has_one_logit
from advreg.modes import check_evaluating, check_model
from advreg.tensors import HALVES
from advreg.units import at_least_one

TARGETS = 9
"""Classes that the targeted parts of the standard version try."""

QUERIES = 5000
"""Of Square in the standard version."""


PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")
"""What AutoAttack runs, each on what those before it have left."""


def has_autoattack() -> bool:
    """Whether the package that runs these attacks is installed."""
    return find_spec("pyautoattack") is not None


def need_autoattack() -> ModuleType:
    """The package that runs these attacks.

    Raises:
        MissingExtraError: It is not installed.
    """
    what = "AutoAttack or its Square, a package of 42 MB,"
    return require("pyautoattack", extra="attacks", what=what)


def autoattack(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    threat: Threat,
    *,
    attacks: Sequence[str] | None = None,
    seed: int = 0,
) -> Tensor:
    """AutoAttack's standard version: APGD-CE, targeted APGD-DLR, targeted FAB and Square.

    With fewer than ten classes its targeted parts try all the others instead of nine.

    Args:
        model: Maps inputs to (B, K) logits, K at least 4; in evaluation mode.
        inputs: (B, C, H, W) in [0, 1], in float32 or float64; under L2 of a size that Square
            tiles, see `check_images`.
        targets: (B,) the true classes.
        threat: `Linf` or `L2`.
        attacks: Only these of `PARTS`, in this order; the pair of APGD finds most of what all
            four find, in a tenth of the time, but is no figure of AutoAttack.
        seed: Of its random draws; the global random state is left alone.

    Returns:
        (B, C, H, W): a bad input where one was found, the untouched one elsewhere.

    Raises:
        ConfigurationError: The package is missing, the model is in training mode or returns no
            logits, or epsilon or the inputs do not fit [0, 1].
        DataError: There is not one class an example.
    """

    if attacks is not None and (not attacks or not set(attacks) <= set(PARTS)):
        raise ConfigurationError(
            f"attacks are {list(attacks)}; give some of {', '.join(PARTS)}, or None for all."
        )

    def fit(adversary: Any, classes: int) -> None:
        check_classes(classes)
        adversary.apgd_targeted.n_target_classes = min(TARGETS, classes - 1)
        adversary.fab.n_target_classes = min(TARGETS, classes - 1)
        if attacks is not None:
            adversary.attacks_to_run = list(attacks)

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

    Args, result and errors are those of `autoattack`; the model may have two classes or more, or
    one logit of yes or no.

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


def check_classes(classes: int) -> None:
    """Refuses what AutoAttack's standard version cannot attack.

    Raises:
        ConfigurationError: There are fewer than four classes.
    """
    if classes < 4:
        raise ConfigurationError(
            f"AutoAttack's standard version needs at least 4 classes and there are {classes};"
            " use PGD and Square, the standard suite."
        )


def check_images(inputs: Tensor, threat: Threat) -> None:
    """Refuses what Square cannot attack.

    Under L2 it begins with tiles of a fifth of the height, from a margin that centres five of
    them; where there is room for a sixth, the last ones reach over the edge and the package stops.

    Args:
        inputs: (B, C, H, W).
        threat: The threat model.

    Raises:
        ConfigurationError: They are no images, in half precision, or of such a size under L2.
    """
    if inputs.ndim != 4:
        raise ConfigurationError(
            f"AutoAttack and Square attack images (B, C, H, W) and the inputs are"
            f" {tuple(inputs.shape)}; use PGD."
        )
    if inputs.dtype in HALVES:
        raise ConfigurationError(
            f"AutoAttack and Square would leave the budget in {inputs.dtype}; give the model and"
            " its inputs in float32."
        )
    height, width = inputs.shape[2:]
    side = height // 5
    margin = (height - 5 * side) // 2
    fits = side > 0 and all(margin + size // side * side <= size for size in (height, width))
    if isinstance(threat, L2) and not (fits or side == 1):
        raise ConfigurationError(
            f"Square under L2 cannot tile images of {height} x {width} pixels; use PGD, the"
            " standard suite, or Linf."
        )


def _run(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    threat: Threat,
    fit: Callable[[Any, int], None],
    **settings: Any,
) -> Tensor:
    package = need_autoattack()
    if type(threat) not in (Linf, L2):
        raise ConfigurationError(f"AutoAttack knows no {threat!r}; give Linf or L2.")
    check_model(model)
    check_evaluating(model)
    threat.check(inputs, (0.0, 1.0))
    check_images(inputs, threat)
    check_targets(inputs, targets)
    with torch.inference_mode(False), torch.no_grad(), paused(model), _undisturbed(model):
        inputs = inputs.detach().clone()
        outputs = model(inputs)
        logits, classes = single_labels(outputs, targets.clone())
        if has_one_logit(logits_of(outputs)):
            with torch.enable_grad():  # by the graph a sigmoid is known
                check_no_sigmoid(logits_of(model(inputs[:1].clone().requires_grad_())))
        check_logits(logits)
        adversary = package.AutoAttack(
            _Connected(model),
            norm=type(threat).__name__,
            eps=threat.epsilon,
            device=inputs.device,
            **settings,
        )
        fit(adversary, logits.shape[1])
        attacked, _ = adversary.run_standard_evaluation(inputs, classes, batch_size=len(inputs))
    return attacked.detach()


class _Connected(nn.Module):
    """The model's logits, (B, K), always a differentiable function of its inputs.

    One that cuts the gradient has a gradient of zero; the package would stop with an error.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = logits_of(self.model(inputs))
        outputs = task_of(None, outputs).class_logits(outputs)
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
