"""What one network's study recommends: three sentences, a command, and a line to paste."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advreg.errors import ConfigurationError, RunError
from advreg.study.collecting import Collected
from advreg.study.definition import Study, merged, nested
from advreg.study.statistics import estimate, paired
from advreg.study.tuning import rounds_of


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        model: A network's name, or module:function of one's own.
        data: A data set's name, or a folder.
        minutes: How long the answer may take.
        goal: accuracy or robustness.

    Raises:
        ConfigurationError: There are no minutes.
    """

    model: str
    data: str
    minutes: float
    goal: str = "accuracy"

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise ConfigurationError(f"minutes is {self.minutes}; give a number above 0.")


@dataclass(frozen=True)
class Effort:
    """What there is time for.

    Attributes:
        epochs: Of each run.
        tries: Runs of tuning for each arm.
        seeds: Seeds, at most.
        tuned: Runs of tuning that each arm has had; None is all.
    """

    epochs: int
    tries: int
    seeds: int
    tuned: int | None = None


def recommend(question: Question, study: Study, found: Collected, effort: Effort) -> dict[str, Any]:
    """Three sentences from the numbers, and what to type.

    Args:
        question: What was asked.
        study: The study that was done, tuned.
        found: Its rows.
        effort: What there was time for.
    """
    group = next(iter(study.groups))
    figures = {
        goal: {
            arm: {row["seed"]: _figure(row, goal) for row in found.rows if row["arm"] == arm}
            for arm in study.arms
        }
        for goal in ("accuracy", "robustness")
    }
    mine = figures[study.goal]
    others = [arm for arm in study.arms if arm != study.baseline]
    gains = {arm: paired(mine[arm], mine[study.baseline]) for arm in others}
    others = [arm for arm in others if gains[arm]]
    if not others:
        raise RunError("Too few runs ended to compare anything; the failures are on the page.")
    best = max(others, key=lambda arm: statistics.fmean(gains[arm]))
    count, mean = len(gains[best]), statistics.fmean(gains[best])
    # An interval that holds for all comparisons at once (Bonferroni).
    interval = estimate(gains[best], 1 - 0.05 / len(others)) if count > 1 else None
    shown = interval is not None and interval.low > 0 and count >= 5
    chosen = best if shown else study.baseline
    what = "accuracy" if study.goal == "accuracy" else "accuracy under PGD at 2/255"
    ours, theirs = (statistics.fmean(mine[arm].values()) for arm in (best, study.baseline))
    against = f"{100 * ours:.1f} % against {100 * theirs:.1f} %"
    first = (
        f"Train with {best}: over {count} seeds its {what} is"
        f" {100 * mean:.1f} points above plain training's ({against})."
        if shown
        else f"Keep plain training: none of {len(others)} other ways was shown to have a better"
        f" {what}, the nearest being {best} with {100 * mean:+.1f} points ({against})."
    )
    few = "" if count >= 5 else f"; {count} seeds are too few for a verdict"
    second = (
        "There was time for one seed, which says nothing of how sure that is; at least five are"
        " needed for a verdict, and the same command with more --minutes adds them."
        if interval is None
        else f"The 95 % interval of that difference, which holds for all {len(others)} comparisons"
        f" at once, is {100 * interval.low:+.1f} to {100 * interval.high:+.1f} points{few}."
    )
    side = figures["robustness" if study.goal == "accuracy" else "accuracy"]
    change = paired(side[best], side[study.baseline])
    beside = "accuracy under PGD at 2/255" if study.goal == "accuracy" else "accuracy"
    steps = {arm: _step_time(found, arm) for arm in (best, study.baseline)}
    runs = sum(rounds_of(effort.tries)) if effort.tuned is None else effort.tuned
    tuning = f"every way was tuned with {runs} runs" if runs else "there was no time for tuning"
    third = (
        f"A step with {best} takes {steps[best] / steps[study.baseline]:.2f} times plain training's"
        f" and its {beside} differs by {100 * statistics.fmean(change):+.1f} points;"
        f" {tuning}, and all were trained for {effort.epochs} epochs."
    )
    settings = study.tuned.get(group, {}).get(chosen, {})
    return {
        "arm": chosen,
        "sentences": [first, second, third],
        "command": train_command(question, study, chosen, settings),
        "code": code(study, chosen, settings),
    }


def _figure(row: Mapping[str, Any], goal: str) -> float:
    return float(row["clean"] if goal == "accuracy" else next(iter(row["robust"].values())))


def _step_time(found: Collected, arm: str) -> float:
    return statistics.median(row["step_seconds"] for row in found.rows if row["arm"] == arm)


def _method(study: Study, arm: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    method = study.arms[arm]["method"]
    method = dict(method) if isinstance(method, dict) else {"name": method}
    method = merged(method, nested(settings).get("method", {}))
    return method.pop("name"), method


def train_command(question: Question, study: Study, arm: str, settings: dict[str, Any]) -> str:
    """The command that trains a network so."""
    name, method = _method(study, arm, settings)
    options = {
        "data": question.data,
        "model": question.model,
        "method": name,
        **{f"method.{key}": value for key, value in method.items()},
        **{key: value for key, value in settings.items() if not key.startswith("method.")},
        "batch_size": study.base["batch_size"],
        "epochs": study.base["epochs"],
        "out": "runs/mine",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", _text(value))]
    return shlex.join(["advreg", "train", *words])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def code(study: Study, arm: str, settings: dict[str, Any]) -> str:
    """A line to paste before a training loop of one's own."""
    name, method = _method(study, arm, settings)
    given = ", ".join(f"{key}={value!r}" for key, value in method.items())
    if name == "standard":
        return "# nothing to paste: plain training"
    if name == "layerwise":
        return f"advreg.LayerwiseAdversary({given}).attach(model)"
    return f'method = advreg.methods.build_method("{name}", {given})'
