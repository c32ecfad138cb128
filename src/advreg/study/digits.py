"""The runs that the demo compares: a small network on 128 digits, trained and attacked."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from advreg.errors import AdvregError, CollapseWarning
from advreg.evaluation import evaluate
from advreg.methods import build_method
from advreg.models import build_model
from advreg.study.cost import Cost, measure_cost
from advreg.study.plan import Arm, Row
from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    OptimizerSettings,
    RunFolder,
    RunSettings,
    ScheduleSettings,
    find_recipe,
    train,
)
from advreg.training.builders import build_data, resolve
from advreg.training.loop import update
from advreg.training.session import Session

PLAIN = "Plain"
DROPOUT = "Dropout"
RANDOM_INPUT = "Random, input"
RANDOM_HIDDEN = "Random, hidden"
FGSM = "FGSM training"
SLOT = "Slot memory"
EXAMPLE = "Example memory"

_AT_INPUT = {"sites": ["input"], "epsilon": 0.2}


@dataclass(frozen=True)
class Scale:
    """How large the demo is.

    Args:
        epochs: Of each training.
        train_images: Drawn for each seed.
        test_images: The first so many of the test split; None is all of it.
        epsilons: L-infinity budgets of the attacks; 0.1 and 0.2 are in the table.
        steps: Of PGD.
        cost_rounds: Turns of each arm when steps are timed.
    """

    epochs: int = 40
    train_images: int = 128
    test_images: int | None = None
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.3)
    steps: int = 10
    cost_rounds: int = 30


QUICK = Scale(epochs=5, test_images=200, epsilons=(0.1, 0.2), cost_rounds=20)
"""To see that everything works; its figures say nothing."""


def demo_arms(further: Sequence[str] = ()) -> tuple[Arm, ...]:
    """Plain training, what one would use instead, two controls, and the two memories.

    Tuned settings come from the recipes; those that the demo is about are fixed.

    Args:
        further: Methods that get an arm too.

    Raises:
        ConfigurationError: There is no such method, or it has settings without defaults.
    """
    for method in further:
        build_method(method)
    slot = Arm(SLOT, "layerwise", dict(_AT_INPUT), "fixed: the claims are about this budget")
    return (
        Arm(PLAIN, "standard", source="nothing to set"),
        _arm(DROPOUT, "dropout", {}, {"p": 0.3}),
        Arm(
            RANDOM_HIDDEN,
            "layerwise",
            {"sites": ["blocks.*"], "epsilon": 0.2, "direction": "random"},
            "the first study's control",
        ),
        Arm(
            RANDOM_INPUT,
            "layerwise",
            {**_AT_INPUT, "direction": "random"},
            "the slot arm's site and budget",
        ),
        _arm(FGSM, "fgsm", {}, {"epsilon": 0.2}),
        slot,
        _arm(EXAMPLE, "layerwise", {"memory": "example"}, {"epsilon": 0.2}),
        *(_arm(method, method, {}) for method in dict.fromkeys(further)),
    )


def _arm(
    label: str, method: str, fixed: dict[str, Any], untuned: dict[str, Any] | None = None
) -> Arm:
    recipe = find_recipe("digits", method, fixed)
    if recipe is None:
        settings, source = {**(untuned or {}), **fixed}, "set by hand, not tuned"
        return Arm(label, method, settings, source if settings else "its own defaults")
    return Arm(label, method, {**recipe.settings, **fixed}, recipe.source)


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


def cost_of_steps(arms: tuple[Arm, ...], scale: Scale) -> dict[str, Cost]:
    """The time of each arm's training step, with its optimizer step, over the first arm's.

    An arm that cannot be set up is left out: its runs will say why.
    """
    with torch.random.fork_rng(), warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore", CollapseWarning)  # the weights are of no interest here
        steps = {}
        for arm in arms:
            with suppress(AdvregError):
                session = Session(resolve(configuration(arm, 0, scale, "unused")))
                stack.enter_context(session.attached())
                steps[arm.label] = _step(session)
        if arms[0].label not in steps:
            return {}
        return measure_cost(steps, arms[0].label, rounds=scale.cost_rounds)


def _step(session: Session) -> Callable[[], None]:
    batches = cycle([session.prepare(batch) for batch in session.loader.epoch(0)])
    session.model.train()
    return lambda: update(session, [next(batches)])
