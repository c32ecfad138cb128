"""How the bits of codes are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.errors import DataError
from advreg.hashing.codes import bits_of, relaxed

BINS = 20
"""Of the histogram of relaxed bits over [0, 1]."""


def entropy(outputs: Tensor) -> Tensor:
    """The entropy of each relaxed bit, -(h log h + (1 - h) log(1 - h)), in nats.

    Computed from u, since h rounds to 0 or 1 where u is large.

    Args:
        outputs: u, any shape.
    """
    log = torch.nn.functional.logsigmoid
    return -(relaxed(outputs) * log(outputs) + relaxed(-outputs) * log(-outputs))


def bit_statistics(outputs: Tensor) -> dict[str, Any]:
    """Balance, correlation and confidence of the bits of a set of images, ready for JSON.

    Args:
        outputs: (N, q) outputs of a hash network, N at least 2.

    Returns:
        `balance`: the share of ones of each bit; `worst_balance`: the share farthest from 1/2;
        `correlation`: the mean over pairs of bits of their absolute correlation, a bit that never
        changes counting 1 with every other; `constant_bits`; `distinct_codes`;
        `confidence`: the share of relaxed bits in each of 20 equal bins of [0, 1];
        `mean_confidence`: the mean of |2 h - 1|; `entropy`: the mean over bits in units of log 2,
        1 where every h is 1/2. Maximum-entropy regularisation raises the last one.

    Raises:
        DataError: There are fewer than two images, or an output is not a number.
    """
    if outputs.ndim != 2 or len(outputs) < 2:
        raise DataError(f"Outputs have shape {tuple(outputs.shape)}; give those of two images.")
    outputs = outputs.detach().cpu().double()
    bits = bits_of(outputs).numpy()
    balance = bits.mean(0)
    constant = (balance == 0) | (balance == 1)
    h = relaxed(outputs)
    histogram = torch.histc(h, BINS, 0, 1) / h.numel()
    return {
        "balance": balance.tolist(),
        "worst_balance": float(balance[np.abs(balance - 0.5).argmax()]),
        "correlation": _correlation(bits, constant),
        "constant_bits": int(constant.sum()),
        "distinct_codes": len(np.unique(np.packbits(bits, axis=1), axis=0)),
        "confidence": histogram.tolist(),
        "mean_confidence": float((2 * h - 1).abs().mean()),
        "entropy": float(entropy(outputs).mean() / np.log(2)),
    }


def _correlation(bits: np.ndarray, constant: np.ndarray) -> float:
    count = bits.shape[1]
    if count < 2:
        return 0.0
    centred = bits - bits.mean(0)
    size = np.sqrt((centred**2).sum(0))
    scaled = centred / np.where(constant, 1.0, size)
    found = np.abs(scaled.T @ scaled)
    found[constant] = found[:, constant] = 1.0
    return float(found[~np.eye(count, dtype=bool)].mean())
