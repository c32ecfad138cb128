"""Accuracy of several labels or positions an example, clean and under FGSM and PGD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks import Threat, input_gradient
from advreg.attacks.gradient import unwarned
from advreg.data.splits import generator
from advreg.errors import DataError
from advreg.evaluation.accuracy import Images, batches, check_images, deployed, device_of
from advreg.evaluation.measurement import Attack, Chosen, Run
from advreg.evaluation.robustness import build_threats
from advreg.evaluation.suites import fgsm_attack, pgd_attack
from advreg.inputs import logits_of
from advreg.losses import Criterion, Task, task_of
from advreg.shortage import enough_memory
from advreg.tensors import finite
from advreg.units import Number, at_least_one

UNMEASURED = (
    "Not measured: it stops at an example's first wrong answer, and of several labels or positions"
    " the others would stay as they are."
)
"""Why AutoAttack and Square say nothing here."""


def evaluate_labels(
    model: nn.Module,
    data: Images,
    criterion: Criterion,
    *,
    epsilons: Sequence[Number],
    threat: str = "Linf",
    limit: int | None = None,
    steps: int = 20,
    restarts: int = 1,
    batch_size: int = 500,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures a network that gives each example several labels, or one at each position.

    An example's accuracy is the share of its labels or positions that are right, those of an
    ignored class left out; under several attacks or runs its lowest share counts. Attacks follow
    the criterion: of nn.BCEWithLogitsLoss the loss of every yes and no, of nn.CrossEntropyLoss
    that of every position.

    Args:
        model: Maps images in [0, 1], (B, C, H, W), to logits (B, L) of L labels, each yes or no,
            or (B, K, ...) of K classes at each position; it is left as it is found.
        data: The images, uint8, and their targets: (N, L) of 0 and 1, or (N, ...) classes.
        criterion: Says which of the two it is.
        epsilons: The budgets, in the threat model's norm.
        threat: `Linf` or `L2`.
        limit: Only so many examples, drawn; all where not given.
        steps: Steps of PGD, each of size 2.5 * epsilon / steps.
        restarts: Runs of PGD; under L2 the first starts at the input.
        batch_size: Images a pass.
        device: Where the model is; found from its parameters where not given.
        seed: What the examples and the random starts are drawn from.

    Returns:
        Ready for JSON: `clean` and, for each budget, `fgsm`, `pgd` and `worst`, each with the mean
        `accuracy`, its `standard_error` over the examples, and `all_right`, the share of examples
        without a mistake; `nll` in nats, None where it is not finite; the shares `not_finite` and
        `zero_gradient` as of `Evaluation.to_dict`; `unmeasured`: why AutoAttack and Square are not
        among them.

    Raises:
        ConfigurationError: A setting cannot work, or the model returns probabilities.
        DataError: There are no images, the targets do not fit, or there is one class an example.
    """
    at_least_one(steps=steps, restarts=restarts, batch_size=batch_size)
    if limit is not None:
        at_least_one(limit=limit)
    check_images(data)
    order = torch.randperm(len(data.targets), generator=generator(seed))[:limit].sort().values
    chosen = Chosen(data.images[order], data.targets[order], order)
    threats = build_threats(threat, epsilons, chosen.images)
    attacks = [fgsm_attack(criterion), pgd_attack(steps, restarts, criterion=criterion)]
    device = device_of(model, device)
    short = enough_memory(f"batches of {batch_size} images", "lower batch_size.")
    with short, deployed(model, device):
        parts = [
            _measured(
                model, inputs, targets, criterion, attacks, threats, (seed, number * batch_size)
            )
            for number, (inputs, targets) in enumerate(batches(model, chosen, batch_size, device))
        ]
    found = {name: torch.cat([part[name] for part in parts]).cpu().double() for name in parts[0]}
    nll = found["nll"].mean().item()
    settings = {"threat": threat, **attacks[1].settings, "restarts": restarts, "limit": limit}
    return {
        "settings": {**settings, "batch_size": batch_size, "device": str(device), "seed": seed},
        "examples": len(order),
        "clean": {**_figures(found["clean"]), "nll": nll if math.isfinite(nll) else None},
        "not_finite": found["not_finite"].mean().item(),
        "zero_gradient": found["zero_gradient"].mean().item(),
        "epsilons": {
            text: {"epsilon": budget.epsilon}
            | {name: _figures(found[f"{name} at {text}"]) for name in ("fgsm", "pgd", "worst")}
            for text, budget in threats.items()
        },
        "unmeasured": {"autoattack": UNMEASURED, "square": UNMEASURED},
    }


def _measured(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    criterion: Criterion,
    attacks: Sequence[Attack],
    threats: Mapping[str, Threat],
    place: tuple[int, int],
) -> dict[str, Tensor]:
    """A batch's figures by name, (B,), or (B, 2) of the share that is right and whether all is.

    `place` is the evaluation's seed and the batch's first example.
    """
    outputs = logits_of(model(inputs))
    task = task_of(criterion, outputs, targets)
    _check(task, outputs, targets)
    gradient = finite(input_gradient(model, inputs, targets, criterion))
    found = {
        "clean": _scores(task, [outputs], targets),
        "nll": task.cross_entropies(outputs, targets),
        "not_finite": ~outputs.flatten(1).isfinite().all(1),
        "zero_gradient": ~gradient.flatten(1).any(1),
    }
    for text, threat in threats.items():
        answers: dict[str, list[Any]] = {"worst": []}
        for attack in attacks:
            runs = (Run.of(place[0], number, place[1]) for number in range(attack.restarts))
            crafted = (attack.craft(model, inputs, targets, threat, run) for run in runs)
            with unwarned():
                answers[attack.name] = [model(attacked) for attacked in crafted]
            answers["worst"] += answers[attack.name]
        for name, given in answers.items():
            found[f"{name} at {text}"] = _scores(task, given, targets)
    return found


def _check(task: Task, outputs: Tensor, targets: Tensor) -> None:
    """Refuses one class an example, and examples of which nothing counts."""
    task.class_logits(outputs)  # refuses a regression
    classes = task.class_targets(outputs, targets)
    if classes.ndim - classes.is_floating_point() < 2:
        raise DataError(
            f"The targets are {tuple(targets.shape)}, one class an example; take"
            " advreg.evaluation.evaluate."
        )
    empty = ~(classes != task.ignore_index).flatten(1).any(1)
    if empty.any():
        raise DataError(
            f"Of {int(empty.sum())} examples in a batch every position is of the ignored class;"
            " leave them out."
        )


def _scores(task: Task, answers: Sequence[Any], targets: Tensor) -> Tensor:
    """Of each example the lowest share that is right, and whether all is in every answer."""
    shares = torch.stack([task.accuracy(one, targets) for one in answers]).amin(0)
    right = torch.stack([task.correct(one, targets) for one in answers]).all(0)
    return torch.stack([shares, right.to(shares.dtype)], 1)


def _figures(scores: Tensor) -> dict[str, float]:
    shares, right = scores.unbind(1)
    return {
        "accuracy": shares.mean().item(),
        "standard_error": shares.std(correction=0).item() / math.sqrt(len(shares)),
        "all_right": right.mean().item(),
    }
