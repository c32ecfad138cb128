"""Losses of hash codes, each behind one shape: outputs u and targets to a scalar."""

from __future__ import annotations

import inspect
from typing import Any

from advreg.errors import ConfigurationError
from advreg.hashing.losses.base import HashLoss
from advreg.hashing.losses.centres import CSQ, OrthoHash, hash_centres
from advreg.hashing.losses.dpsh import DPSH
from advreg.hashing.losses.dsh import DSH
from advreg.hashing.losses.dtsh import DTSH
from advreg.hashing.losses.generated import (
    GENERATED,
    WithGenerated,
    generated_count,
    maximum_entropy,
)
from advreg.hashing.losses.greedyhash import GreedyHash
from advreg.hashing.losses.hashnet import HashNet
from advreg.hashing.losses.triplet import Triplet

LOSSES: dict[str, type[HashLoss]] = {
    loss.name: loss for loss in (Triplet, DSH, HashNet, DPSH, DTSH, GreedyHash, CSQ, OrthoHash)
}

__all__ = [
    "CSQ",
    "DPSH",
    "DSH",
    "DTSH",
    "GENERATED",
    "LOSSES",
    "GreedyHash",
    "HashLoss",
    "HashNet",
    "OrthoHash",
    "Triplet",
    "WithGenerated",
    "build_loss",
    "generated_count",
    "hash_centres",
    "maximum_entropy",
]


def build_loss(name: str, bits: int, classes: int, **settings: Any) -> HashLoss:
    """A loss by its name on the command line.

    Args:
        name: A key of `LOSSES`.
        bits: q.
        classes: Number of classes or labels.
        settings: Of the loss; what is left out has its default.

    Raises:
        ConfigurationError: There is no such loss or setting, or a value cannot work.
    """
    if name not in LOSSES:
        raise ConfigurationError(f"No loss is called {name!r}; choose from {', '.join(LOSSES)}.")
    known = [*inspect.signature(LOSSES[name]).parameters][2:]
    for setting in settings:
        if setting not in known:
            raise ConfigurationError(
                f"Loss {name!r} has no setting {setting!r}; choose from {', '.join(known)}."
            )
    if classes < 2:
        raise ConfigurationError(
            f"There is {classes} class, and codes of one class have nothing to tell apart; give"
            " images of at least two."
        )
    return LOSSES[name](bits, classes, **settings)
