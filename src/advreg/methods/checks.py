"""The contract in front of every method's step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from typing import TYPE_CHECKING

from torch import Tensor, nn

from advreg.batch import Batch
from advreg.checks import check_log_probabilities, check_logits, check_targets, types_explained
from advreg.errors import ConfigurationError, UnsupportedError
from advreg.losses import (
    Criterion,
    adapt_criterion,
    is_cross_entropy,
    takes_log_probabilities,
    unexamined,
)
from advreg.methods.output import StepOutput

if TYPE_CHECKING:
    from advreg.methods.base import Backward, Method

NO_BACKWARD = (
    "The function that was handed in as backward has not run the backward pass of the loss, from"
    " which a method goes on; hand in one that runs it at once, such as torch.Tensor.backward or"
    " accelerator.backward."
)
AUTOMATIC = (
    "Lightning's automatic optimisation owns the backward pass, and so does a method; let the"
    " LightningModule inherit advreg.integrations.lightning.MethodMixin, or set"
    " automatic_optimization to False and hand in manual_backward."
)


def checked(step: Callable[..., StepOutput]) -> Callable[..., StepOutput]:
    """A method's `step` behind the contract for what goes in, the same for every method."""

    @wraps(step)
    def checked_step(
        self: Method, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        if under_automatic_optimization(self.network) or under_automatic_optimization(model):
            raise UnsupportedError(AUTOMATIC)
        check_targets(batch.inputs, batch.targets)
        self.check(batch.inputs, self.threat)
        looks = nullcontext() if self._looks else unexamined()
        with looks, types_explained(self.network, batch.inputs):
            output = step(self, model, batch, adapt_criterion(criterion), partial(_back, backward))
        if self._checks == 1 and is_cross_entropy(criterion):
            check_logits(output.outputs)
        elif self._checks == 1 and takes_log_probabilities(criterion):
            check_log_probabilities(output.outputs)
        return output

    return checked_step


def under_automatic_optimization(model: nn.Module) -> bool:
    """Whether a model is a LightningModule whose trainer runs the backward pass itself."""
    automatic = getattr(model, "automatic_optimization", False) is True
    # Its public name raises an error where there is no trainer, and has a stand-in under Fabric.
    return automatic and getattr(model, "_trainer", None) is not None


def _back(backward: Backward, loss: Tensor) -> None:
    """Runs the backward pass of a loss, and makes sure that it was run."""
    check_scalar(loss)
    if not loss.requires_grad:
        backward(loss)
        return
    came: list[bool] = []
    handle = loss.register_hook(lambda gradient: came.append(True))
    with second_derivatives():
        backward(loss)
    handle.remove()
    if not came:
        raise UnsupportedError(NO_BACKWARD)


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Turns an operation's missing second derivative into one sentence.

    Raises:
        UnsupportedError: The backward pass goes through a backward pass that has none.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"derivative for (\S+) is not implemented", str(error))
        if found is None:
            raise
        mend = "replace that operation in the network"
        if "attention" in found[1]:
            mend = (
                "train within torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or load a"
                ' transformers model with attn_implementation="eager"'
            )
        raise UnsupportedError(
            f"The method differentiates a gradient, which {found[1]} cannot; {mend}."
        ) from error


def check_scalar(loss: Tensor) -> None:
    """Refuses losses that are not one mean.

    Raises:
        ConfigurationError: There are several.
    """
    if loss.numel() != 1:
        raise ConfigurationError(
            f"The criterion returns {tuple(loss.shape)} losses; give one with reduction='mean'."
        )
