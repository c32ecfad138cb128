"""From the folders of a study's runs to its results, whatever is there of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advreg.study.budget import STEPS
from advreg.study.comparisons import compare_arms
from advreg.study.definition import Study
from advreg.study.environment import environment
from advreg.study.execution import FAILURE, ROW
from advreg.study.files import read_json, write_json
from advreg.study.runs import StudyRun

RESULTS = "results.json"
TUNING = "tuning.json"


@dataclass(frozen=True)
class Collected:
    """What there is of a study.

    Attributes:
        path: The results file.
        rows: Of the runs that are done.
        failures: Those that failed, with the reason.
        missing: Those that were not done yet, or are under way.
    """

    path: Path
    rows: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    missing: list[dict[str, Any]]


def collect(
    study: Study, runs: Sequence[StudyRun], out: Path, command: str, seconds: float = 0.0
) -> Collected:
    """Gathers the rows of a study's runs into `results.json`.

    Args:
        study: The study.
        runs: Its runs.
        out: Its folder.
        command: What makes the results again.
        seconds: What all runs took, where it is known; else the sum over the rows.

    Raises:
        RunError: A row is damaged, or the results cannot be written.
    """
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    for run in runs:
        folder, which = run.folder(out), {"group": run.group, "arm": run.arm, "seed": run.seed}
        row = read_json(folder / ROW)
        failure = read_json(folder / FAILURE) if row is None else None
        if row is not None:
            rows.append({"id": run.id, **which, **row})
        elif failure is not None:
            failures.append({**which, "reason": str(failure["reason"])})
        else:
            missing.append(which)
    spent = sum(row["seconds"] + row["evaluation_seconds"] for row in rows)
    results = {
        "kind": "advreg study",
        "format": 1,
        "title": study.title,
        "question": study.question,
        "remark": study.remark,
        "goal": study.goal,
        "command": command,
        "environment": environment(),
        "seconds": seconds or spent,
        "study": study.text,
        "size": study.size,
        "baseline": study.baseline,
        "groups": list(study.groups),
        "arms": _arms(study, runs),
        "seeds": list(study.seeds),
        "epsilons": list(study.evaluation.epsilons),
        "rows": rows,
        "failures": failures,
        "missing": missing,
        "tuning": read_json(out / TUNING) or [],
        "steps": read_json(out / STEPS) or {},
        "comparisons": compare_arms(
            rows,
            study.baseline,
            list(study.arms),
            list(study.groups),
            study.evaluation.epsilons,
            study.pairs,
        ),
    }
    path = out / RESULTS
    write_json(path, json.loads(json.dumps(results, default=str)))
    return Collected(path, rows, failures, missing)


def _arms(study: Study, runs: Sequence[StudyRun]) -> list[dict[str, Any]]:
    """Each arm with its method spelt out, as in the first group that has it."""
    methods = {run.arm: run.configuration.method for run in reversed(runs)}
    return [
        {"label": arm, "method": methods[arm].name, "settings": methods[arm].settings}
        for arm in study.arms
        if arm in methods
    ]
