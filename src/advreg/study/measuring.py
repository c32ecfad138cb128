"""A run's figures: its network on test images, clean and under attack, image by image."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advreg.data import ImageData
from advreg.evaluation.accuracy import deployed, device_of
from advreg.evaluation.measurement import Chosen, Measurement
from advreg.evaluation.pieces import Pieces
from advreg.evaluation.robustness import build_threats, choose_examples
from advreg.evaluation.suites import pgd_attack
from advreg.progress import Clock
from advreg.study.definition import Measuring
from advreg.training.builders import build_data
from advreg.training.settings import DataSettings

SEED = 0
"""Of the choice of images and of the attacks' starts: the same for every run, so paired."""


def measure(
    model: nn.Module, data: ImageData, settings: Measuring, pieces: Pieces
) -> dict[str, Any]:
    """Measures a network, and takes over what `pieces` has already.

    Args:
        model: On its device.
        data: The test images.
        settings: How.
        pieces: What is done.

    Returns:
        `clean`, `robust` by budget, `nll`, `ece`, `chance` (the share of the most frequent class),
        `images` and `attacked` (their numbers) and `correct`: for `clean` and each budget the
        images that were classified correctly, one bit each in the order of the data, packed by
        `numpy.packbits` and written in base64.
    """
    device = device_of(model, None)
    chosen = choose_examples(data, settings.images, settings.batch_size, SEED)
    count = min(settings.attacked or len(chosen.targets), len(chosen.targets))
    attacked = Chosen(*(part[:count] for part in chosen))
    threats = build_threats("Linf", settings.epsilons, data.images) if settings.epsilons else {}
    attack = pgd_attack(settings.steps, 1)

    def measurement(of: Chosen) -> Measurement:
        return Measurement(model, of, settings.batch_size, device, SEED, pieces, Clock())

    def fetch(first: int, last: int) -> tuple[Tensor, Tensor]:
        return chosen.images[first:last], chosen.targets[first:last]

    with deployed(model, device):
        clean = measurement(chosen).images("clean", fetch, len(chosen.targets))
        hits = {
            text: measurement(attacked).attack(attack, text, threat).correct
            for text, threat in threats.items()
        }
    figures = clean.to_dict()
    return {
        "clean": figures["accuracy"],
        "robust": {text: found.double().mean().item() for text, found in hits.items()},
        "nll": figures["nll"],
        "ece": figures["ece"],
        "chance": (chosen.targets.bincount().max() / len(chosen.targets)).item(),
        "images": len(chosen.targets),
        "attacked": count if hits else 0,
        "correct": {
            "clean": _packed(clean["correct"], chosen.indices),
            **{text: _packed(found, attacked.indices) for text, found in hits.items()},
        },
        "evaluation_seconds": pieces.seconds,
    }


def _packed(hits: Tensor, indices: Tensor) -> str:
    bits = np.packbits(hits[indices.argsort()].numpy())
    return base64.b64encode(bits.tobytes()).decode("ascii")


@lru_cache(maxsize=1)
def images_of(data: DataSettings, split: str) -> ImageData:
    """The test or validation images of some data; kept, since the next run's are mostly the same.

    Args:
        data: Which data.
        split: test or validation.
    """
    splits = build_data(data)
    return splits.test if split == "test" else splits.validation


def pieces_of(path: Path, identity: str) -> Pieces:
    """What a killed process left of a run's measurement."""
    return Pieces({"run": identity, "torch": torch.__version__}, path)
