"""Evaluating by a suite: attacks, evidence, corruptions; and what is written of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advreg.evaluation.accuracy import Images, deployed, device_of
from advreg.evaluation.corruptions import (
    CIFAR,
    OWN,
    Corruption,
    averaged,
    cifar_corruptions,
    corruption_notes,
    own_corruptions,
)
from advreg.evaluation.evidence import Row, evidence
from advreg.evaluation.identity import content_hash, found_notes
from advreg.evaluation.measurement import IMAGE_WORK, Attack, Measurement
from advreg.evaluation.pieces import Pieces
from advreg.evaluation.probes import Probes
from advreg.evaluation.results import Evaluation
from advreg.evaluation.robustness import build_threats, choose_examples, measure_attacks
from advreg.evaluation.suites import Suite, build_suite, transfer_attack
from advreg.files import replace_arrays, replace_file
from advreg.progress import Clock, Progress
from advreg.units import Number, at_least_one

FIGURES, EXAMPLES, PARTIAL = "evaluation.json", "evaluation-examples.npz", "evaluation.partial.npz"
"""What an evaluation leaves in a folder; the last one only until it is finished."""


@dataclass(frozen=True)
class SuiteEvaluation:
    """Everything a suite found.

    Attributes:
        evaluation: The examples, clean and attacked.
        curve: Accuracy over the budget down to chance: rows of `epsilon` and `accuracy`.
        evidence: What stands behind the figures.
        corruptions: Its `set`, the `mean_accuracy` over the names `averaged`, and `figures` by
            name and severity, those of `extra` files among them.
        notes: What was seen and mended, in sentences.
    """

    evaluation: Evaluation
    curve: list[dict[str, float]]
    evidence: list[Row]
    corruptions: dict[str, Any] | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON: those of `Evaluation`, and the suite's own."""
        return {
            **self.evaluation.to_dict(),
            "curve": self.curve,
            "evidence": [row.to_dict() for row in self.evidence],
            "corruptions": self.corruptions,
            "notes": self.notes,
        }

    def write(self, folder: str | Path, **more: Any) -> dict[str, Any]:
        """Writes figures and examples into a folder, and drops the unfinished pieces.

        Args:
            folder: It exists.
            **more: Added to the figures, such as the data set's name.

        Returns:
            The figures as they were written.
        """
        folder, figures = Path(folder), {**more, **self.to_dict()}
        text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
        arrays = self.evaluation.examples()
        replace_arrays(folder / EXAMPLES, arrays)
        replace_file(folder / FIGURES, lambda path: path.write_text(text, encoding="utf-8"))
        (folder / PARTIAL).unlink(missing_ok=True)
        return figures


def evaluate_suite(
    model: nn.Module,
    data: Images,
    *,
    epsilons: Sequence[Number],
    suite: str = "quick",
    steps: int | None = None,
    restarts: int | None = None,
    threat: str = "Linf",
    limit: int | None = None,
    probe: int = 500,
    batch_size: int = 250,
    device: torch.device | str | None = None,
    seed: int = 0,
    transfer: nn.Module | None = None,
    corruptions: str | Path | None = None,
    weights: Mapping[str, Tensor] | None = None,
    folder: str | Path | None = None,
    fresh: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> SuiteEvaluation:
    """Measures a network so that its number can be believed.

    As `evaluate_examples`, with the attacks of a suite, the worst case per example over all of
    them, calibration, corruptions, and the evidence behind it. After a kill the same call goes
    on where it was, and finds what an undisturbed one finds.

    Args:
        model: Maps images in [0, 1], (B, C, H, W), to logits (B, K), or (B,) or (B, 1) of yes or
            no.
        data: The images, uint8, and their classes.
        epsilons: The budgets, in the threat model's norm.
        suite: `quick` (FGSM, PGD-20), `standard` (FGSM, PGD-50 with 10 restarts, noise) or
            `headline` (AutoAttack's standard version on top).
        steps: Of PGD, each of size 2.5 * epsilon / steps; the suite's where not given.
        restarts: Of PGD; the suite's where not given.
        threat: `Linf` or `L2`.
        limit: Only so many examples, drawn class by class; all where not given.
        probe: Examples, likewise drawn and rounded up to whole batches, that the evidence is
            measured on.
        batch_size: Images a pass.
        device: Where the models are put; found from the model's parameters where not given.
        seed: What random draws follow from.
        transfer: Another model; attacks found on it are tried on this one.
        corruptions: A CIFAR-10-C folder; `"own"` for the set computed here; None for none.
        weights: The state of the checkpoint that the model should be.
        folder: Where finished pieces are kept until `write`; None keeps them in memory alone.
        fresh: Whether to drop what an unfinished evaluation left there.
        progress: Told after each piece, with the time left.

    Raises:
        ConfigurationError: A setting or an attack of the suite cannot work, a package is missing,
            or the model returns probabilities; before any attack runs.
        DataError: There are no images, the model returns no logits, a target or a corruption does
            not fit.
        RunError: An unfinished evaluation in the folder had other settings.
    """
    chosen = choose_examples(data, limit, batch_size, seed)
    threats = build_threats(threat, epsilons, chosen.images)
    at_least_one(probe=probe)
    plan, device = build_suite(suite, steps, restarts), device_of(model, device)
    sources = [] if transfer is None else [transfer.to(device)]
    attacks = [*plan.attacks, *map(transfer_attack, sources)]
    changed = _build_corruptions(corruptions, chosen, limit, seed)
    settings = {
        "threat": threat,
        "epsilons": {text: found.epsilon for text, found in threats.items()},
        **_attack_settings(plan, attacks),
        "limit": limit,
        "probe": probe,
        "batch_size": batch_size,
        "device": str(device),
        "seed": seed,
        "corruptions": _set_name(corruptions),
        "model": content_hash(model.state_dict()),
        "transfer": None if transfer is None else content_hash(transfer.state_dict()),
        "data": content_hash({"images": data.images, "targets": data.targets}),
    }
    notes = found_notes(model)
    partial = None if folder is None else Path(folder) / PARTIAL
    with ExitStack() as stack:
        pieces = stack.enter_context(Pieces(settings, partial, fresh=fresh))
        for network in (model.to(device), *sources):
            stack.enter_context(deployed(network, device))
        measurement = Measurement(
            model, chosen, batch_size, device, seed, pieces, Clock(progress), sources
        )
        measurement.try_once()
        classes = measurement.first_logits().shape[1]
        for attack, budget in product(attacks, threats.values()):
            measurement.check(attack, budget, classes)
        probes = Probes(measurement, plan, threats, probe, classes)
        measurement.clock.expect(probes.work() + IMAGE_WORK * sum(c.count for c in changed))
        evaluation = measure_attacks(measurement, attacks, threats, settings)
        curve = probes.curve(evaluation)
        same = None if weights is None else content_hash(weights) == settings["model"]
        figures = probes.figures(evaluation, curve, same)
        corrupted = _measure_corruptions(measurement, changed, _set_name(corruptions))
    if corrupted is not None:
        notes += corruption_notes(corrupted)
    evaluation = replace(evaluation.in_data_order(), seconds=pieces.seconds)
    return SuiteEvaluation(evaluation, curve, evidence(figures), corrupted, notes)


def _attack_settings(plan: Suite, attacks: Sequence[Attack]) -> dict[str, Any]:
    """The suite's; PGD's stand at the top as well, where `evaluate` has them."""
    return {
        "suite": plan.name,
        "attacks": {a.name: {**a.settings, "restarts": a.restarts} for a in attacks},
        **plan.pgd.settings,
        "restarts": plan.pgd.restarts,
    }


def _set_name(corruptions: str | Path | None) -> str | None:
    if corruptions is None:
        return None
    return OWN if corruptions == "own" else CIFAR


def _build_corruptions(
    corruptions: str | Path | None, data: Images, limit: int | None, seed: int
) -> list[Corruption]:
    if corruptions is None:
        return []
    if corruptions == "own":
        return own_corruptions(data, seed)
    return cifar_corruptions(corruptions, tuple(data.images.shape[1:]), limit, seed)


def _measure_corruptions(
    measurement: Measurement, changed: list[Corruption], name: str | None
) -> dict[str, Any] | None:
    if not changed:
        return None
    figures: dict[str, dict[str, Any]] = {}
    for corruption in changed:
        text = f"{corruption.name} {corruption.severity}"
        found = measurement.images(text, corruption.fetch, corruption.count).to_dict()
        figures.setdefault(corruption.name, {})[str(corruption.severity)] = found
    names = averaged(figures) if name == CIFAR else list(figures)
    shares = [found["accuracy"] for one in names for found in figures[one].values()]
    return {
        "set": name,
        "mean_accuracy": sum(shares) / len(shares),
        "averaged": names,
        "extra": [one for one in figures if one not in names],
        "figures": figures,
    }
