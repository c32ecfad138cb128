"""Accuracy under attack over a list of budgets."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advreg.attacks import Linf, correct, cross_entropies, fgsm, input_gradient, pgd
from advreg.attacks.checks import at_least_one, within_range
from advreg.attacks.threat import finite
from advreg.errors import ConfigurationError
from advreg.evaluation.accuracy import Images, batches, deployed, device_of, logits
from advreg.evaluation.results import Evaluation, Robustness
from advreg.units import Number

Progress = Callable[[int, int, str], None]
"""Told how many examples are done, of how many, and what is being done to them."""


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
    progress: Progress | None = None,
) -> Evaluation:
    """Measures a network clean, under FGSM and under PGD, L-infinity, example by example.

    The network runs in evaluation mode, in which an attached adversary does nothing, in float32,
    and is left as it is found. Everything follows from the seed; an example's random starts are
    the same at every budget but for their scale.

    Args:
        model: Maps images in [0, 1], (B, C, H, W), to logits (B, K).
        data: The images and their classes.
        epsilons: The budgets, numbers in [0, 1] or fractions such as `"8/255"`.
        limit: Measures only the first so many examples; all where not given.
        steps: Steps of PGD, each of size 2.5 * epsilon / steps.
        restarts: Random starts of PGD; of each example the worst is kept.
        batch_size: Images a pass.
        device: Where the model is; found from its parameters where not given.
        seed: What the random starts are drawn from.
        progress: Called after each batch.

    Raises:
        ConfigurationError: A setting cannot work, or the model does not return logits (B, K).
        DataError: There are no images, or a target is not among the model's classes.
    """
    began = time.perf_counter()
    at_least_one(steps=steps, restarts=restarts, batch_size=batch_size)
    if limit is not None:
        at_least_one(limit=limit)
    chosen = _Chosen(data.images[:limit], data.targets[:limit])
    threats = _threats(epsilons, chosen.images)
    device = device_of(model, device)
    tell = _counting(progress, len(chosen.targets) * (1 + len(threats)))
    run = partial(_over_batches, chosen, batch_size, device, tell)
    attacked = {}
    with deployed(model, device):
        hits, losses, not_finite, zero_gradient = run(partial(_clean, model), "clean")
        for text, threat in threats.items():
            start = time.perf_counter()
            attack = partial(_attacked, model, threat, steps, restarts, seed)
            single, iterated = run(attack, f"epsilon {text}")
            attacked[text] = Robustness(
                threat.epsilon, {"fgsm": single, "pgd": iterated}, time.perf_counter() - start
            )
    settings = {
        "threat": "Linf",
        "steps": steps,
        "step_size": "2.5 * epsilon / steps",
        "restarts": restarts,
        "random_start": True,
        "limit": limit,
        "batch_size": batch_size,
        "device": str(device),
        "seed": seed,
    }
    return Evaluation(
        settings, hits, losses, not_finite, zero_gradient, attacked, time.perf_counter() - began
    )


class _Chosen(NamedTuple):
    images: Tensor
    targets: Tensor


def _threats(epsilons: Sequence[Number], images: Tensor) -> dict[str, Linf]:
    """The budgets by the text that the user wrote, all checked before anything runs."""
    if not epsilons:
        raise ConfigurationError("No epsilons are given; give at least one, such as 8/255.")
    threats = {str(epsilon): Linf(epsilon) for epsilon in epsilons}
    for threat in threats.values():
        within_range(threat, images, (0.0, 1.0))
    return threats


def _clean(model: nn.Module, inputs: Tensor, targets: Tensor, first: int) -> list[Tensor]:
    """Correctness, losses, logits that are not finite and gradients of zero."""
    outputs = logits(model, inputs, targets)
    gradient = finite(input_gradient(model, inputs, targets))
    return [
        correct(outputs, targets),
        cross_entropies(outputs, targets),
        ~outputs.isfinite().all(1),
        ~gradient.flatten(1).any(1),
    ]


def _attacked(
    model: nn.Module,
    threat: Linf,
    steps: int,
    restarts: int,
    seed: int,
    inputs: Tensor,
    targets: Tensor,
    first: int,
) -> list[Tensor]:
    """Correctness under FGSM and under PGD."""
    # From the seed and the batch alone, so that neither the budgets before it nor the device
    # changes where a batch starts.
    generator = torch.Generator().manual_seed(random.Random(f"{seed} {first}").getrandbits(63))
    single = fgsm(model, inputs, targets, threat)
    iterated = pgd(model, inputs, targets, threat, steps, restarts=restarts, generator=generator)
    return [correct(model(attacked), targets) for attacked in (single, iterated)]


def _over_batches(
    data: Images,
    batch_size: int,
    device: torch.device,
    tell: Callable[[int, str], None],
    measure: Callable[[Tensor, Tensor, int], list[Tensor]],
    text: str,
) -> list[Tensor]:
    """What `measure` returns of every batch and its first example's place, joined on the CPU."""
    parts = []
    first = 0
    for inputs, targets in batches(data, batch_size, device):
        parts.append([part.cpu() for part in measure(inputs, targets, first)])
        first += len(targets)
        tell(len(targets), text)
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _counting(progress: Progress | None, total: int) -> Callable[[int, str], None]:
    done = 0

    def tell(examples: int, text: str) -> None:
        nonlocal done
        done += examples
        if progress is not None:
            progress(done, total, text)

    return tell
