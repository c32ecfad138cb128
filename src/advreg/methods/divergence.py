"""How far two answers of a network are apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def divergence(expected: Tensor, outputs: Tensor) -> Tensor:
    """KL(softmax(expected) || softmax(outputs)): summed over classes, the mean over examples.

    Args:
        expected: (B, K) logits.
        outputs: (B, K) logits.

    Returns:
        A scalar in the wider of the two types, at least float32.
    """
    wide = torch.promote_types(expected.dtype, outputs.dtype)
    wide = torch.promote_types(wide, torch.float32)
    return F.kl_div(
        F.log_softmax(outputs.to(wide), 1),
        F.log_softmax(expected.to(wide), 1),
        reduction="batchmean",
        log_target=True,
    )
