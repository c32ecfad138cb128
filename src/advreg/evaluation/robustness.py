"""Accuracy under FGSM and PGD over a list of budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks import L2, Linf, Threat
from advreg.checks import check_budget
from advreg.data.splits import stratified_order
from advreg.errors import ConfigurationError, DataError
from advreg.evaluation.accuracy import Images, check_images, deployed, device_of
from advreg.evaluation.measurement import IMAGE_WORK, Attack, Chosen, Measurement
from advreg.evaluation.pieces import Pieces
from advreg.evaluation.results import Evaluation, Robustness
from advreg.evaluation.suites import fgsm_attack, pgd_attack
from advreg.progress import Clock
from advreg.units import Number, at_least_one

THREATS: dict[str, type[Threat]] = {"Linf": Linf, "L2": L2}
"""The threat models that an evaluation knows, by name."""


def evaluate(
    model: nn.Module, data: Images, *, epsilons: Sequence[Number], **settings: Any
) -> dict[str, Any]:
    """The figures of `evaluate_examples`, ready for JSON.

    Args:
        model: As there.
        data: As there.
        epsilons: As there.
        **settings: Its other arguments.
    """
    return evaluate_examples(model, data, epsilons=epsilons, **settings).to_dict()


def evaluate_examples(
    model: nn.Module,
    data: Images,
    *,
    epsilons: Sequence[Number],
    limit: int | None = None,
    steps: int = 20,
    restarts: int = 1,
    batch_size: int = 500,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Measures a network clean, under FGSM and under PGD, L-infinity, example by example.

    The network runs in evaluation mode, in which an attached adversary does nothing, in its own
    precision, and is left as it is found. Everything follows from the seed; an example's random
    starts are the same at every budget but for their scale.

    Args:
        model: Maps images in [0, 1], (B, C, H, W), to logits (B, K), or (B,) or (B, 1) of yes or
            no.
        data: The images, uint8, and their classes.
        epsilons: The budgets, numbers in [0, 1] or fractions such as `"8/255"`.
        limit: Measures only so many examples, drawn class by class; all where not given.
        steps: Steps of PGD, each of size 2.5 * epsilon / steps.
        restarts: Random starts of PGD; of each example the worst is kept.
        batch_size: Images a pass.
        device: Where the model is; found from its parameters where not given.
        seed: What the examples and the random starts are drawn from.
        progress: Told of the work done, of all work, and what was done last.

    Raises:
        ConfigurationError: A setting cannot work, or the model returns probabilities.
        DataError: There are no images, or there is not one class an example that the model knows.
    """
    at_least_one(steps=steps, restarts=restarts)
    chosen = choose_examples(data, limit, batch_size, seed)
    threats = build_threats("Linf", epsilons, chosen.images)
    device = device_of(model, device)
    clock = Clock(
        progress and (lambda told: progress(round(told.done), round(told.total), told.text))
    )
    measurement = Measurement(model, chosen, batch_size, device, seed, Pieces({}), clock)
    attacks = [fgsm_attack(), pgd_attack(steps, restarts)]
    settings = {
        "threat": "Linf",
        **attacks[1].settings,
        "restarts": restarts,
        "limit": limit,
        "batch_size": batch_size,
        "device": str(device),
        "seed": seed,
    }
    with deployed(model, device):
        measurement.try_once()
        return measure_attacks(measurement, attacks, threats, settings).in_data_order()


def measure_attacks(
    measurement: Measurement,
    attacks: Sequence[Attack],
    threats: dict[str, Threat],
    settings: dict[str, Any],
) -> Evaluation:
    """Measures every example clean and under each attack at each budget."""
    targets = measurement.data.targets.cpu()
    measurement.clock.expect(IMAGE_WORK * len(targets))
    for attack in attacks:
        measurement.clock.expect(len(threats) * measurement.work(attack))
    clean = measurement.clean()
    attacked = {
        text: Robustness(
            threat.epsilon,
            {attack.name: measurement.attack(attack, text, threat) for attack in attacks},
        )
        for text, threat in threats.items()
    }
    indices = measurement.data.indices
    return Evaluation(settings, indices, targets, clean, attacked, measurement.pieces.seconds)


def choose_examples(data: Images, limit: int | None, batch_size: int, seed: int) -> Chosen:
    """`limit` examples, or all, in an order of which every beginning has each class in proportion.

    Data sorted by class would otherwise be measured on the first class alone.

    Raises:
        ConfigurationError: A count is under one.
        DataError: There are no images, they are not uint8, or an example has not one class.
    """
    at_least_one(batch_size=batch_size)
    if limit is not None:
        at_least_one(limit=limit)
    check_images(data)
    targets = class_column(data.targets)
    order = stratified_order(targets.cpu(), seed)[:limit]
    return Chosen(data.images[order], targets[order], order)


def class_column(targets: Tensor) -> Tensor:
    """One class an example, (N,) int64, of integers (N,) or (N, 1) or one-hot (N, K).

    Raises:
        DataError: They are something else.
    """
    if targets.is_floating_point() and targets.ndim == 1:
        whole = bool((targets == targets.round()).all())
        raise DataError(
            f"The targets are {targets.dtype}; give classes as integers"
            f"{', such as targets.long()' if whole else ''}."
        )
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    if targets.ndim == 2 and bool(((targets == 1).sum(1) == 1).all()):
        targets = targets.argmax(1) if targets.is_floating_point() else targets.int().argmax(1)
    if targets.ndim != 1 or targets.is_floating_point():
        raise DataError(
            f"The targets are {targets.dtype} of shape {tuple(targets.shape)} and an evaluation"
            f" needs one class an example, ({len(targets)},); for several labels or positions take"
            " advreg.evaluation.evaluate_labels, with their criterion."
        )
    targets = targets.long()
    if int(targets.min()) < 0:  # -100 too, which torch's losses leave out: here each one counts
        raise DataError(
            f"The targets hold {int(targets.min())}; give classes from 0 up, and leave out the"
            " examples without one."
        )
    return targets


def build_threats(norm: str, epsilons: Sequence[Number], images: Tensor) -> dict[str, Threat]:
    """The budgets by the text that the user wrote, all checked before anything runs.

    Raises:
        ConfigurationError: There are none, one cannot be read or does not fit [0, 1], or the norm
            is unknown.
    """
    if norm not in THREATS:
        raise ConfigurationError(f"There is no threat {norm!r}; take one of {', '.join(THREATS)}.")
    if isinstance(epsilons, (str, int, float)):
        raise ConfigurationError(f"epsilons is {epsilons!r}; give a list, such as [{epsilons!r}].")
    if not len(epsilons):
        raise ConfigurationError("No epsilons are given; give at least one, such as 8/255.")
    threats = {str(epsilon): THREATS[norm](epsilon) for epsilon in epsilons}
    for threat in threats.values():
        check_budget(threat.epsilon, (0.0, 1.0), threat.diameter(images))
    return threats
