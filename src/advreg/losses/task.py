"""What a network's outputs mean: losses, divergence and agreement, example by example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from advreg.errors import ConfigurationError, DataError
from advreg.inputs import logits_of
from advreg.losses.targets import (
    IGNORED,
    are_shares,
    as_classes,
    examines,
    has_one_logit,
    shaped_like,
)
from advreg.tensors import wide

Kind = Literal["categorical", "bernoulli", "regression"]


@dataclass(frozen=True)
class Task:
    """What a network's outputs mean, which decides every loss, divergence and hit.

    Categorical outputs (B, K, ...) have one of K classes at each position, along dimension 1.
    Bernoulli outputs (B,), (B, 1) or (B, ...) are each the logit z of a yes or no of its own,
    which is the two-class network of logits (0, z): so one formula serves both.

    Attributes:
        kind: `categorical`, `bernoulli` (one logit, multi-label) or `regression`.
        ignore_index: The class of positions that are left out.
    """

    kind: Kind = "categorical"
    ignore_index: int = IGNORED

    def class_logits(self, outputs: Any) -> Tensor:
        """(B, K, ...) logits in at least float32, the classes along dimension 1.

        Args:
            outputs: What the network returned.

        Raises:
            ConfigurationError: They are a regression's.
        """
        outputs = wide(logits_of(outputs))
        if self.kind == "regression":
            raise ConfigurationError(
                "The outputs are a regression's and have no classes; give a classifier, with a"
                " criterion such as nn.CrossEntropyLoss or nn.BCEWithLogitsLoss."
            )
        if self.kind == "categorical":
            return outputs
        if has_one_logit(outputs) and outputs.ndim > 1:
            outputs = outputs.squeeze(1)
        return torch.stack([torch.zeros_like(outputs), outputs], 1)

    def class_targets(self, outputs: Any, targets: Tensor) -> Tensor:
        """Targets as `class_logits` takes them: (B, ...) int64 or (B, K, ...) probabilities.

        Raises:
            DataError: They do not fit the outputs.
        """
        outputs = logits_of(outputs)
        if self.kind == "categorical":
            return as_classes(outputs, targets, self.ignore_index)
        ones = shaped_like(outputs, targets)
        if examines.get() and not are_shares(ones):
            raise DataError(
                f"The targets run from {ones.min():g} to {ones.max():g} and each logit is a yes or"
                " no; give 0 or 1, or a network with a logit for each class."
            )
        if has_one_logit(outputs) and outputs.ndim > 1:
            ones = ones.squeeze(1)
        if not ones.is_floating_point():
            return ones.long()
        ones = wide(ones)
        return torch.stack([1 - ones, ones], 1)

    def criterion_targets(self, outputs: Any, targets: Tensor) -> Tensor:
        """Targets as a criterion of torch's own takes them for these outputs.

        Returns:
            Categorical: (B, ...) int64 or (B, K, ...) probabilities of the outputs' type;
            otherwise the outputs' shape and type.

        Raises:
            DataError: They do not fit the outputs.
        """
        outputs = logits_of(outputs)
        if self.kind == "categorical":
            targets = as_classes(outputs, targets, self.ignore_index)
            return targets.to(outputs.dtype) if targets.is_floating_point() else targets
        if self.kind == "bernoulli":
            self.class_targets(outputs, targets)
        return shaped_like(outputs, targets).to(outputs.dtype)

    def shares(self, outputs: Any, targets: Tensor) -> Tensor:
        """What targets say of each logit, in the outputs' shape and at least float32.

        Categorical: the probabilities of the classes, zero where a position is left out.
        """
        given = self.criterion_targets(outputs, targets)
        if self.kind != "categorical" or given.is_floating_point():
            return wide(given)
        shares = torch.zeros_like(wide(logits_of(outputs)))
        counted = (given != self.ignore_index).unsqueeze(1)
        return shares.scatter(1, given.unsqueeze(1) * counted, counted.to(shares.dtype))

    def cross_entropies(self, outputs: Any, targets: Tensor) -> Tensor:
        """The cross entropy of each example, (B,), in at least float32; the mean over positions."""
        return self.losses(self.class_logits(outputs), self.class_targets(outputs, targets))

    def losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """`cross_entropies` of what `class_logits` and `class_targets` returned."""
        losses = functional.cross_entropy(
            logits, classes, reduction="none", ignore_index=self.ignore_index
        )
        if losses.ndim == 1:
            return losses
        if classes.is_floating_point():
            return losses.flatten(1).mean(1)
        counted = (classes != self.ignore_index).flatten(1).sum(1)
        return losses.flatten(1).sum(1) / counted.clamp_min(1)

    def divergence(self, expected: Any, outputs: Any) -> Tensor:
        """KL(p || q) of the networks' answers, p of `expected` and q of `outputs`.

        Returns:
            A scalar in the wider of the two types, at least float32: summed over the classes, the
            mean over examples and positions.
        """
        expected, outputs = self.class_logits(expected), self.class_logits(outputs)
        precision = torch.promote_types(expected.dtype, outputs.dtype)
        total = functional.kl_div(
            functional.log_softmax(outputs.to(precision), 1),
            functional.log_softmax(expected.to(precision), 1),
            reduction="sum",
            log_target=True,
        )
        return total / (outputs.numel() // outputs.shape[1])

    def predictions(self, outputs: Any) -> Tensor:
        """The most likely class at each position, (B, ...) int64."""
        return self.class_logits(outputs).argmax(1)

    def accuracy(self, outputs: Any, targets: Tensor) -> Tensor:
        """The share of each example's positions that are right, (B,) float32.

        With probabilities as targets it is the probability that they give to what the network
        predicts. An example whose logits are not all finite scores nothing.
        """
        logits, classes = self.class_logits(outputs), self.class_targets(outputs, targets)
        predicted = logits.argmax(1)
        if classes.is_floating_point():
            hits = classes.gather(1, predicted.unsqueeze(1)).squeeze(1)
            counted = torch.ones_like(hits)
        else:
            hits = (predicted == classes).float()
            counted = (classes != self.ignore_index).float()
        share = _flat(hits).sum(1) / _flat(counted).sum(1).clamp_min(1)
        return torch.where(_flat(logits).isfinite().all(1), share, 0.0).float()

    def correct(self, outputs: Any, targets: Tensor) -> Tensor:
        """Which examples are right at every position, (B,) bool.

        Probabilities as targets stand for their most likely class. An example whose logits are
        not all finite is not correct.
        """
        logits, classes = self.class_logits(outputs), self.class_targets(outputs, targets)
        if classes.is_floating_point():
            classes = classes.argmax(1)
        counted = _flat(classes != self.ignore_index)
        hits = _flat(logits.argmax(1) == classes) | ~counted
        return hits.all(1) & counted.any(1) & _flat(logits).isfinite().all(1)


def _flat(tensor: Tensor) -> Tensor:
    """(B, ...) as (B, N)."""
    return tensor.reshape(len(tensor), -1)
