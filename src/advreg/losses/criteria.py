"""Criteria: what outputs mean under them, and targets in the form that they take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from advreg._torch_compat import version
from advreg.checks import check_no_sigmoid
from advreg.errors import ConfigurationError, DataError
from advreg.inputs import logits_of
from advreg.losses.targets import IGNORED, are_shares, examines, has_one_logit, sums_to_one
from advreg.losses.task import Kind, Task
from advreg.tensors import wide

Criterion = Callable[[Any, Tensor], Tensor]
"""Takes what the network returns and the targets; returns their loss."""

_CLASSES_ALONE = (
    nn.NLLLoss,
    nn.MultiMarginLoss,
    functional.nll_loss,
    functional.multi_margin_loss,
)
"""Criteria that take class indices and no probabilities."""

_KINDS: dict[Kind, tuple[Any, ...]] = {
    "categorical": (nn.CrossEntropyLoss, functional.cross_entropy, *_CLASSES_ALONE),
    "bernoulli": (
        nn.BCEWithLogitsLoss,
        nn.MultiLabelSoftMarginLoss,
        functional.binary_cross_entropy_with_logits,
        functional.multilabel_soft_margin_loss,
    ),
    "regression": (
        nn.MSELoss,
        nn.L1Loss,
        nn.SmoothL1Loss,
        nn.HuberLoss,
        functional.mse_loss,
        functional.l1_loss,
        functional.smooth_l1_loss,
        functional.huber_loss,
    ),
}


def task_of(criterion: Criterion | None, outputs: Any, targets: Tensor | None = None) -> Task:
    """What outputs mean, by the criterion that they are trained with.

    A criterion of torch's own says it. Of any other, and where there is none, the shapes do: one
    logit an example is Bernoulli, classes without a dimension of their own are categorical.
    Targets in the outputs' own shape are class probabilities where the criterion does not change
    when all logits do alike; where there is no criterion, where they sum to one.

    Args:
        criterion: The loss, or None.
        outputs: What the network returned.
        targets: What they are compared with; None judges by the outputs alone.

    Raises:
        ConfigurationError: The criterion does not fit the outputs.
        DataError: The targets do not fit, or several meanings are left.
    """
    if isinstance(criterion, _Adapted):
        criterion = criterion.criterion
    outputs = logits_of(outputs)
    one_logit = has_one_logit(outputs)
    kind, ignored = _known(criterion)
    if kind == "categorical" and one_logit:
        raise ConfigurationError(
            "The cross entropy over one logit an example is always zero; use"
            " nn.BCEWithLogitsLoss, or two logits."
        )
    if kind is not None:
        return Task(kind, ignored)
    if criterion is cross_entropies:
        criterion = None
    if targets is None:
        return Task("bernoulli" if one_logit else "categorical", ignored)
    if one_logit:
        values = targets.is_floating_point() and not are_shares(targets)
        return Task("regression" if values else "bernoulli", ignored)
    if targets.shape != outputs.shape:
        return Task("categorical", ignored)
    if criterion is None:
        if sums_to_one(targets):
            return Task("categorical", ignored)
        raise DataError(
            f"The targets, {tuple(targets.shape)}, do not sum to one over the classes; give class"
            " indices, or for several labels an example criterion=nn.BCEWithLogitsLoss()."
        )
    return Task(_by_what_it_computes(criterion, outputs, targets), ignored)


def adapt_criterion(criterion: Criterion) -> Criterion:
    """A criterion that takes what networks return and targets of any type that has a meaning.

    One of torch's own is given logits, and targets in the type and shape that it takes: classes of
    any integer type, (B, 1) or one-hot, probabilities of another precision, 0 and 1 for one logit.
    Any other is given the outputs as they are; integer targets as int64.

    Raises (when called):
        ConfigurationError: The criterion does not fit the outputs, takes logits and the outputs
            are a sigmoid's, or returns what the backward pass cannot go through.
        DataError: The targets do not fit the outputs, or there are no logits.

    Raises (at once):
        ConfigurationError: It is no criterion, or sums over the examples.
    """
    return criterion if isinstance(criterion, _Adapted) else _Adapted(criterion)


class _Adapted:
    """See `adapt_criterion`. Targets are examined once, however often they are compared."""

    def __init__(self, criterion: Criterion) -> None:
        if not callable(criterion):
            raise ConfigurationError(
                f"The criterion is {criterion!r}; give a loss, such as nn.CrossEntropyLoss()."
            )
        function, settings = _unwrapped(criterion)
        if settings.get("reduction", getattr(function, "reduction", None)) == "sum":
            raise ConfigurationError(
                "The criterion sums over the examples, beside whose loss a method's own terms would"
                " weigh too little; give reduction='mean'."
            )
        self.criterion = criterion
        self.own = criterion is cross_entropies
        self.foreign = not self.own and _known(criterion)[0] is None
        self.needs_classes = _is_one_of(criterion, _CLASSES_ALONE)
        self._examined: tuple[Tensor, Any] | None = None
        self._fitted: tuple[Task, Tensor] | None = None

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        loss = self._losses(outputs, targets)
        if not isinstance(loss, Tensor):
            raise ConfigurationError(
                f"The criterion returns {type(loss).__name__}; give one that returns a tensor."
            )
        lost = torch.is_grad_enabled() and not loss.requires_grad
        if lost and isinstance(outputs, Tensor) and outputs.requires_grad:
            raise ConfigurationError(
                "The criterion's loss has lost its gradient; leave out detach(), item() and"
                " torch.no_grad() in it."
            )
        return loss

    def _losses(self, outputs: Any, targets: Tensor) -> Tensor:
        if self.foreign:
            other = targets.is_floating_point() or targets.is_complex()
            return self.criterion(outputs, targets if other else targets.long())
        logits = logits_of(outputs)
        task, fitted = self._fit(logits, targets)
        if self.own:
            return task.losses(task.class_logits(logits), fitted)
        return self.criterion(logits, fitted)

    def _fit(self, logits: Tensor, targets: Tensor) -> tuple[Task, Tensor]:
        # What was examined once counts until the tensor is written to; inference ones do not say.
        written = version(targets)
        about = written, logits.shape, logits.dtype
        examined, before = self._examined or (None, None)
        if self._fitted is None or examined is not targets or before != about or written < 0:
            task = task_of(self.criterion, logits, targets)
            if task.kind == "bernoulli":
                check_no_sigmoid(logits)
            fit = task.class_targets if self.own else task.criterion_targets
            fitted = fit(logits, targets)
            if self.needs_classes and fitted.is_floating_point():
                raise DataError(
                    f"The targets, {tuple(targets.shape)}, are probabilities, which this criterion"
                    " does not take; give class indices, or nn.CrossEntropyLoss."
                )
            self._examined, self._fitted = (targets, about), (task, fitted)
        return self._fitted


def smoothed(criterion: Criterion, outputs: Any, targets: Tensor, share: float) -> Tensor:
    """The loss with a share of each target spread evenly over all classes.

    A cross entropy of torch's own is that of its `label_smoothing`: class weights divide by the
    sum of the targets' weights, and the ignored class is left out. Yes and no are two classes.

    Args:
        criterion: The loss.
        outputs: What the network returned.
        targets: What they are compared with.
        share: From 0 to 1, which leaves nothing of the targets.

    Raises:
        ConfigurationError: It is a regression, or the criterion takes class indices alone.
        DataError: The targets do not fit.
    """
    task, loss = task_of(criterion, outputs, targets), adapt_criterion(criterion)
    if task.kind == "regression":
        raise ConfigurationError(
            "A regression has no classes to spread its targets over; use a classifier's criterion."
        )
    logits = logits_of(outputs)
    classes = logits.shape[1] if task.kind == "categorical" else 2
    settings = _cross_entropy_settings(criterion)
    given = task.criterion_targets(outputs, targets)
    if settings is not None and not given.is_floating_point():
        kept = (1 - share) * (1 - settings.pop("label_smoothing", 0.0))
        return functional.cross_entropy(logits, given, **settings, label_smoothing=1 - kept)
    given = task.shares(outputs, targets)
    if examines.get() and task.kind == "categorical" and not sums_to_one(given):
        raise ConfigurationError(
            "The targets leave positions out, which this criterion cannot do when they are"
            " smoothed; use nn.CrossEntropyLoss(ignore_index=...) itself."
        )
    try:
        return loss(outputs, ((1 - share) * given + share / classes).to(logits.dtype))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConfigurationError(
            f"The criterion does not take probabilities as targets ({error}); use"
            " nn.CrossEntropyLoss, or a criterion that does."
        ) from error


def cross_entropies(outputs: Any, targets: Tensor, task: Task | None = None) -> Tensor:
    """The cross entropy of each example, (B,): see `Task.cross_entropies`.

    Args:
        outputs: What the network returned.
        targets: Classes, or probabilities in the outputs' shape; 0 or 1 for one logit.
        task: What the outputs mean; None finds it by the shapes.
    """
    task = task_of(None, outputs, targets) if task is None else task
    return task.cross_entropies(outputs, targets)


def correct(outputs: Any, targets: Tensor, task: Task | None = None) -> Tensor:
    """Which examples are right, (B,) bool: see `Task.correct`; arguments of `cross_entropies`."""
    task = task_of(None, outputs, targets) if task is None else task
    return task.correct(outputs, targets)


def accuracy(outputs: Any, targets: Tensor, task: Task | None = None) -> Tensor:
    """What share of each example is right, (B,): see `Task.accuracy`; as `cross_entropies`."""
    task = task_of(None, outputs, targets) if task is None else task
    return task.accuracy(outputs, targets)


def is_cross_entropy(criterion: Criterion) -> bool:
    """Whether a criterion takes its own softmax of the outputs, which must be logits then."""
    return _is_one_of(criterion, (nn.CrossEntropyLoss, functional.cross_entropy, cross_entropies))


def takes_log_probabilities(criterion: Criterion) -> bool:
    """Whether a criterion is the negative log-likelihood, without a softmax of its own."""
    return _is_one_of(criterion, (nn.NLLLoss, functional.nll_loss))


def single_labels(outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and classes (B,) of a network that gives each example one class.

    One logit an example becomes two, of no and yes.

    Raises:
        DataError: There are several classes an example, or the targets do not fit.
    """
    outputs = logits_of(outputs)
    labels = (
        targets.shape == outputs.shape and not has_one_logit(outputs) and not sums_to_one(targets)
    )
    if outputs.ndim > 2 or len(outputs) != len(targets) or labels:
        raise DataError(
            f"The network returns {tuple(outputs.shape)} and the targets are"
            f" {tuple(targets.shape)}; give one class an example and a network that returns"
            f" logits, ({len(targets)}, classes), or ({len(targets)},) for yes or no."
        )
    task = task_of(None, outputs)
    classes = task.class_targets(outputs, targets)
    return task.class_logits(outputs), classes.argmax(1) if classes.ndim > 1 else classes


def divergence(expected: Any, outputs: Any, task: Task | None = None) -> Tensor:
    """How far two answers of a network are apart, a scalar: see `Task.divergence`.

    Args:
        expected: What the network returned, held to be right.
        outputs: What it returned of something else.
        task: What the outputs mean; None takes one logit as Bernoulli, others as categorical.
    """
    task = task_of(None, outputs) if task is None else task
    return task.divergence(expected, outputs)


def _known(criterion: Criterion | None) -> tuple[Kind | None, int]:
    """The kind of a criterion of torch's own, and the class that it leaves out."""
    function, settings = _unwrapped(criterion)
    ignored = settings.get("ignore_index", getattr(function, "ignore_index", IGNORED))
    if _is_one_of(function, (nn.BCELoss, functional.binary_cross_entropy)):
        raise ConfigurationError(
            "BCELoss takes probabilities; use nn.BCEWithLogitsLoss on the network's logits,"
            " without its sigmoid."
        )
    return next(
        (kind for kind, known in _KINDS.items() if _is_one_of(function, known)), None
    ), ignored


def _is_one_of(criterion: Any, known: tuple[Any, ...]) -> bool:
    function, _ = _unwrapped(criterion)
    return any(
        isinstance(function, one) if isinstance(one, type) else function is one for one in known
    )


def _unwrapped(criterion: Any) -> tuple[Any, dict[str, Any]]:
    """What a `partial` calls, and with which keywords."""
    settings: dict[str, Any] = {}
    while isinstance(criterion, (partial, _Adapted)):
        if isinstance(criterion, partial):
            settings = {**criterion.keywords, **settings}
        criterion = criterion.func if isinstance(criterion, partial) else criterion.criterion
    return criterion, settings


def _cross_entropy_settings(criterion: Any) -> dict[str, Any] | None:
    """The settings of a cross entropy of torch's own; None of any other criterion."""
    function, settings = _unwrapped(criterion)
    if function is functional.cross_entropy:
        return settings
    # A class of the user's own may compute something else.
    if getattr(type(function), "forward", None) is not nn.CrossEntropyLoss.forward:
        return None
    names = ("weight", "ignore_index", "reduction", "label_smoothing")
    return {name: getattr(function, name) for name in names}


def _by_what_it_computes(criterion: Criterion, outputs: Tensor, targets: Tensor) -> Kind:
    """A loss of one class among several is blind to a number added to all of its logits."""
    targets = targets if targets.is_floating_point() else targets.to(outputs.dtype)
    plain, moved = wide(outputs.detach()), wide(outputs.detach()) + 1
    try:
        with torch.no_grad():
            before, after = (criterion(logits, targets).double() for logits in (plain, moved))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return "regression"  # it takes the network's whole output, or targets of its own form
    if torch.allclose(before, after, rtol=1e-4, atol=1e-5):
        return "categorical"
    return "bernoulli" if are_shares(targets) else "regression"
