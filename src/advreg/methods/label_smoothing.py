"""Label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from advreg.batch import Batch
from advreg.errors import ConfigurationError
from advreg.methods.base import Backward, Criterion, Method, StepOutput, training_pass


@dataclass
class LabelSmoothing(Method):
    """J with a share of each target spread evenly over all classes (Szegedy et al., CVPR 2016).

    For a cross entropy it is (1 - s) J(y) + s times the mean over the classes k of J(k). The
    criterion must take class probabilities as targets, as cross entropies do.

    Args:
        smoothing: The share s, from 0 up to but not 1.
    """

    name: ClassVar[str] = "label_smoothing"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigurationError(
                f"smoothing is {self.smoothing}; give a share from 0 up to but not 1."
            )

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`; the loss is the smoothed one, the targets are the given ones."""
        self.check(batch.inputs)

        def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
            return criterion(outputs, smooth(targets, outputs, self.smoothing))

        return training_pass(model, batch, smoothed, backward)


def smooth(targets: Tensor, outputs: Tensor, share: float) -> Tensor:
    """Targets with a share spread evenly over all classes.

    Args:
        targets: (B,) classes or (B, K) class probabilities.
        outputs: (B, K), whose type and classes the result takes.
        share: From 0 to 1.

    Returns:
        (B, K) class probabilities.
    """
    classes = outputs.shape[1]
    if targets.ndim == 1:
        targets = functional.one_hot(targets.long(), classes)
    return (1 - share) * targets.to(outputs.dtype) + share / classes
