"""One run on digits as the demo trains it, also under FGSM."""

from __future__ import annotations

import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from advreg.errors import CollapseWarning
from advreg.evaluation import evaluate
from advreg.models import build_model
from advreg.study.demo import demo_study
from advreg.study.plan import Arm, Row
from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    OptimizerSettings,
    RunFolder,
    RunSettings,
    ScheduleSettings,
    train,
)
from advreg.training.builders import build_data

PLAIN, FGSM, SLOT, EXAMPLE = "Plain", "FGSM training", "Slot memory", "Example memory"


def demo_arms() -> tuple[Arm, ...]:
    """The demo's arms, as its study has them."""
    found = demo_study().arms.items()
    methods = {
        label: Configuration.from_dict({"out": "unused", **arm}).method for label, arm in found
    }
    return tuple(Arm(label, method.name, method.settings) for label, method in methods.items())


@dataclass(frozen=True)
class Scale:
    """How large a run is.

    Args:
        epochs: Of each training.
        train_images: Drawn for each seed.
        test_images: The first so many of the test split; None is all of it.
        epsilons: L-infinity budgets of the attacks; 0.1 and 0.2 are in the table.
        steps: Of PGD.
    """

    epochs: int = 40
    train_images: int = 128
    test_images: int | None = None
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.3)
    steps: int = 10


def configuration(arm: Arm, seed: int, scale: Scale, out: str) -> Configuration:
    """One run of the demo: SGD 0.9 Nesterov, weight decay 5e-4, one-cycle to 0.1, batch 64.

    The seed draws the training images too, so that the intervals hold for other images.
    """
    return Configuration(
        run=RunSettings(
            out=out,
            epochs=scale.epochs,
            batch_size=64,
            seed=seed,
            device="cpu",
            tensorboard=False,
            monitor=False,  # the attacks on the test split say more, once
        ),
        data=DataSettings("digits", limit=scale.train_images, seed=seed),
        method=MethodSettings(arm.method, dict(arm.settings)),
        optimizer=OptimizerSettings("sgd", 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=ScheduleSettings("one_cycle"),
    )


def train_and_attack(arm: Arm, seed: int, *, scale: Scale) -> Row:
    """Trains one network and measures the weights of its last epoch on the test split.

    Returns:
        `clean`, `fgsm` and `pgd` (by epsilon) accuracies as shares; `training`, figures by
        epoch; `warnings`; `test_images`, their number; `seconds`.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)  # kept in the metrics
        settings = configuration(arm, seed, scale, str(Path(temporary, "run")))
        result = train(settings, quiet=True)
        folder = RunFolder(result.folder)
        last = folder.load(folder.last)
    model = build_model(**last["architecture"])
    model.load_state_dict(last["model"])
    found = evaluate(
        model,
        build_data(settings.data).test,
        epsilons=scale.epsilons,
        limit=scale.test_images,
        steps=scale.steps,
        seed=seed,
    )
    attacks = {
        name: {text: figures[name]["accuracy"] for text, figures in found["epsilons"].items()}
        for name in ("fgsm", "pgd")
    }
    curves = {
        name: [line[name] for line in result.metrics]
        for name in ("train_loss", "validation_accuracy")
    }
    return {
        "clean": found["clean"]["accuracy"],
        **attacks,
        "training": curves,
        "warnings": [text for line in result.metrics for text in line.get("warnings", [])],
        "test_images": found["examples"],
        "seconds": time.perf_counter() - began,
    }
