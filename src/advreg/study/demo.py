"""The demo: ways of training on 128 digits, compared over seeds, with a report."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from advreg.errors import RunError
from advreg.files import check_results
from advreg.progress import Clock, ProgressBar
from advreg.report import print_results, write_report
from advreg.study import digits
from advreg.study.cost import Cost
from advreg.study.environment import environment
from advreg.study.finish import finish
from advreg.study.plan import Outcome, Plan, run_plan
from advreg.study.pool import available_cores
from advreg.study.summary import summarise
from advreg.study.verdicts import demo_verdicts
from advreg.training import Interrupted

TITLE = "What layerwise adversarial training buys on 128 digits, and what it costs"

FIRST_SEED = 0
"""Tuning uses seeds from 1000 on, so nobody has tuned on the demo's."""

NOT_SHARED = ("out", "seed", "method")
"""Settings that differ from run to run."""


def run_demo(
    out: str | os.PathLike[str] = "runs/demo",
    seeds: int = 10,
    workers: int | None = None,
    quick: bool = False,
    overwrite: bool = False,
    methods: Sequence[str] = (),
) -> Path:
    """Trains, attacks and times every arm, then writes `results.json` and the report.

    Args:
        out: The folder that is written to.
        seeds: Runs of each arm.
        workers: Processes; None is one a core.
        quick: A shortened demo, to see that everything works.
        overwrite: Replace the results that the folder holds.
        methods: Further arms, each a method with its recipe's or its own defaults.

    Returns:
        The report, `report.html` in the folder.

    Raises:
        RunError: The folder holds results already, or every run failed.
        Interrupted: Ctrl-C; what was finished has been written.
    """
    began = time.perf_counter()
    scale = digits.QUICK if quick else digits.Scale()
    plan = Plan(digits.demo_arms(methods), tuple(range(FIRST_SEED, FIRST_SEED + seeds)))
    folder = Path(out)
    check_results(folder, "results.json", overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    console.print(
        f"{len(plan.arms)} ways of training, {seeds} seeds each, in"
        f" {workers or available_cores()} processes; some minutes."
    )
    # First, while nothing else runs: the time of a step is the figure that is easily spoilt.
    cost = digits.cost_of_steps(plan.arms, scale)
    work = partial(digits.train_and_attack, scale=scale)
    with ProgressBar(console, "training and attacking") as bar:
        clock = Clock(bar)
        outcome = run_plan(
            plan,
            work,
            workers,
            lambda done, total, _: clock.at(done, total, f"{done} of {total} runs"),
        )
    _check_any(outcome)
    further = ["--methods", ",".join(methods)] if methods else []
    results = _results(plan, scale, outcome, cost) | {
        "title": TITLE,
        "command": shlex.join(
            ["advreg", "demo", *further, "--seeds", str(seeds), "--out", str(out)],
        ),
        "quick": quick,
        "interrupted": outcome.interrupted,
        "workers": workers or available_cores(),
        "seconds": time.perf_counter() - began,
    }
    total = len(plan.arms) * len(plan.seeds)
    return finish(folder, results, write_report, print_results, console, total)


def _check_any(outcome: Outcome) -> None:
    """Refuses to write results of nothing."""
    if outcome.rows:
        return
    if outcome.failures:
        raise RunError(
            f"Every run failed, the first one with {outcome.failures[0].reason}; mend that and"
            " start again."
        )
    raise Interrupted("Interrupted before a run was finished; no results were written.")


def _results(
    plan: Plan, scale: digits.Scale, outcome: Outcome, cost: dict[str, Cost]
) -> dict[str, Any]:
    """Everything that the report reads."""
    shared = digits.configuration(plan.arms[0], 0, scale, "unused").to_dict()
    shared = {name: value for name, value in shared.items() if name not in NOT_SHARED}
    shared["data"].pop("seed")
    attacks = {
        "threat": "Linf",
        "pgd_steps": scale.steps,
        "test_images": outcome.rows[0]["test_images"],
    }
    labels = [arm.label for arm in plan.arms]
    texts = [str(epsilon) for epsilon in scale.epsilons]
    return {
        "kind": "advreg demo",
        "format": 1,
        "environment": environment(),
        "settings": {**shared, "attacks": attacks},
        "arms": [asdict(arm) for arm in plan.arms],
        "seeds": list(plan.seeds),
        "epsilons": list(scale.epsilons),
        "summary": summarise(outcome.rows, labels, texts),
        "cost": {label: asdict(figures) for label, figures in cost.items()},
        "verdicts": [asdict(verdict) for verdict in demo_verdicts(outcome.rows, cost)],
        "failures": [asdict(failure) for failure in outcome.failures],
        "rows": outcome.rows,
    }
