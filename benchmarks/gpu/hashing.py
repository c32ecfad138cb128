"""Codes of photographs by a network of usual size: the arms of the study, all at once."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.common import DEVICE, Clock
from rich.console import Console

from advreg.study.hashing import generator_of, summarise, whole_seeds, work_of
from advreg.study.hashing_design import HashStudy, read_hash_study
from advreg.study.plan import Plan, Row, run_plan

STUDY = Path(__file__).parents[2] / "studies" / "hashing_cifar10.yaml"
NETWORKS = ("resnet18", "alexnet")
EPOCHS = 60


def design(network: str, options: argparse.Namespace) -> HashStudy:
    """The committed study with a larger network, longer trainings and a wider generator."""
    study = read_hash_study(STUDY)
    changes: dict[str, Any] = {"model": network, "epochs": EPOCHS, "batch_size": 128}
    data = {**study.base["data"], "name": options.data}
    generator: dict[str, Any] = {"width": 64, "batch_size": 64, "steps": 4000}
    measuring = replace(study.evaluation, steps=20, attacked=None)
    if options.toy:
        changes |= {"model": "convnet", "epochs": 1, "precision": "32-true"}
        data = {"name": options.data}
        generator = {"width": 4, "steps": 4}
        measuring = replace(measuring, steps=2, attacked=20, splits=())
    return replace(
        study,
        base={**study.base, **changes, "data": data},
        generator=generator,
        evaluation=measuring,
        bits=(),
        device=DEVICE,
    )


def compare_codes(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """A generator, then seed by seed and network by network what the time allows."""
    console, found = Console(highlight=False), {}
    with tempfile.TemporaryDirectory() as folder:
        studies = {name: design(name, options) for name in NETWORKS[: 1 if options.toy else None]}
        first = next(iter(studies.values()))
        source = generator_of(first, Path(folder), None, console)
        rows: dict[str, list[Row]] = {name: [] for name in studies}
        failures, longest = [], 0.0
        for seed in range(1 if options.toy else first.seeds):
            for name, study in studies.items():
                if clock.left() < 1.3 * longest:
                    break
                began = time.monotonic()
                plan = Plan(study.plan().arms, (seed,))
                work = work_of(study, Path(folder, name), source)
                outcome = run_plan(plan, work, len(plan.arms))
                rows[name] += outcome.rows
                failures += [asdict(failure) for failure in outcome.failures]
                longest = max(longest, time.monotonic() - began)
        for name, study in studies.items():
            whole = whole_seeds(rows[name], len(study.arms))
            baseline = next(iter(study.arms))
            found[name] = {
                "study": study.to_dict(),
                "summary": {label: summarise(whole, label, baseline) for label in study.arms}
                if whole
                else None,
                "rows": rows[name],
            }
        return {"networks": found, "generator": source.read_metrics(), "failures": failures}
