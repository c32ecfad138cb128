"""How far a network's stated confidence can be believed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15
"""Of the expected calibration error."""


def confidences(outputs: Tensor) -> Tensor:
    """The largest class probability of each example, (B,) float64.

    Args:
        outputs: (B, K) logits.
    """
    return outputs.double().softmax(1).amax(1)


def brier_scores(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each example's sum over the classes of (p_k - y_k)^2, 0 to 2, (B,) float64 (Brier 1950).

    Args:
        outputs: (B, K) logits.
        targets: (B,) classes.
    """
    probabilities = outputs.double().softmax(1)
    truth = functional.one_hot(targets, outputs.shape[1])
    return (probabilities - truth).square().sum(1)


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """The expected calibration error, sum_b n_b / N * |accuracy_b - confidence_b| (Guo 2017).

    The bins are of equal width and hold their lower edge; the last one holds one as well.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        bins: Their number.

    Returns:
        A share, 0 for a perfectly calibrated network; not a number where an example has no
        confidence, since its logits are not finite.
    """
    confidence, hits = confidence.double(), correct.double()
    places = (confidence * bins).floor().long().clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, hits - confidence)
    return gaps.abs().sum().item() / len(hits)
