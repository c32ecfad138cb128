"""One network, one folder of images, so many minutes: which way of training is worth it here?"""

from __future__ import annotations

import json
import math
import shlex
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from advreg.errors import ConfigurationError, RunError
from advreg.files import check_folder, replace_file
from advreg.study.budget import one_step
from advreg.study.collecting import Collected
from advreg.study.compare import finish, plan, run_study
from advreg.study.definition import Study, nested, read_study, study_from
from advreg.study.files import read_json, write_json
from advreg.study.pool import available_cores
from advreg.study.runs import cells
from advreg.study.statistics import estimate, paired
from advreg.study.tuning import TUNED, rounds_of, tune
from advreg.training.builders import build_data
from advreg.training.session import Session
from advreg.training.settings import DataSettings

QUESTION = "question.yaml"
ANSWER = "recommendation.json"

MOST_EPOCHS = 30
FEWEST_EPOCHS = 8
"""With fewer, less is tuned and fewer seeds are run before the epochs are cut further."""

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"method": "standard"},
    "dropout": {"method": {"name": "dropout", "p": 0.2}},
    "layerwise, slot memory": {"method": {"name": "layerwise", "epsilon": 0.01}},
    "layerwise, example memory": {
        "method": {"name": "layerwise", "memory": "example", "epsilon": "4/255"}
    },
    "FGSM training": {"method": {"name": "fgsm", "epsilon": "4/255"}},
}

TUNE: dict[str, Any] = {
    "common": {"optimizer.learning_rate": [0.02, 0.05, 0.1, 0.2]},
    "arms": {
        "dropout": {"method.p": [0.1, 0.2, 0.3, 0.5]},
        "layerwise, slot memory": {"method.epsilon": [0.005, 0.01, 0.02, 0.05]},
        "layerwise, example memory": {"method.epsilon": ["2/255", "4/255", "8/255"]},
        "FGSM training": {"method.epsilon": ["1/255", "2/255", "4/255", "8/255"]},
    },
}
"""What is tried for every arm; each has as many runs."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        model: A network's name, or module:function of one's own.
        data: A data set's name, or a folder.
        minutes: How long the answer may take, about.
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
    """

    epochs: int
    tries: int
    seeds: int


def answer(question: Question, out: Path, workers: int | None = None) -> dict[str, Any]:
    """Tunes, compares, and recommends.

    The same call goes on where another one was stopped.

    Args:
        question: What is asked.
        out: The study's folder.
        workers: Processes; None is one a core.

    Returns:
        `arm`, the one that is recommended; `sentences`, three of them; `command`, which trains so;
        and `code`, a line to paste.

    Raises:
        RunError: The folder holds another question, or nothing could be trained.
    """
    began = time.monotonic()
    check_folder(out)
    console = Console(highlight=False)
    number = workers or available_cores()
    study, effort = _study(question, out, number)
    console.print(
        f"{effort.epochs} epochs a run, {effort.tries} runs of tuning for each way, then up to"
        f" {effort.seeds} seeds.",
        markup=False,
    )
    if (out / TUNED).exists():
        found = read_study(out / TUNED)
    else:
        found, _ = tune(study, out, effort.tries, workers=number, patience=math.inf)
    done = _seeds(found, effort, out, number, began + 60 * question.minutes)
    final = replace(found, seeds=tuple(range(done)))
    runs = plan(final, out)
    asked = {
        "--model": question.model,
        "--data": question.data,
        "--minutes": f"{question.minutes:g}",
        "--goal": question.goal,
        "--out": str(out),
    }
    command = shlex.join(["advreg", "compare", *(word for pair in asked.items() for word in pair)])
    collected = finish(final, runs, out, command, console)
    result = recommend(question, final, collected, effort)
    write_json(out / ANSWER, result)
    return result


def _study(question: Question, out: Path, workers: int) -> tuple[Study, Effort]:
    """The study that the folder holds, or a new one as long as there is time for."""
    path = out / QUESTION
    asked = {"model": question.model, "data": question.data, "goal": question.goal}
    known = read_json(out / "effort.json")
    if known is not None and path.exists():
        if known["asked"] != asked:
            raise RunError(f"{out} holds another question's answer; name another folder.")
        return read_study(path), Effort(**known["effort"])
    values = _values(question)
    effort = plan_effort(*_costs(study_from(values)), 60 * question.minutes * workers)
    values["base"]["epochs"] = effort.epochs
    out.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(values, sort_keys=False)
    replace_file(path, lambda name: name.write_text(text, encoding="utf-8"))
    write_json(out / "effort.json", {"asked": asked, "effort": vars(effort)})
    return read_study(path), effort


def _values(question: Question) -> dict[str, Any]:
    splits = build_data(DataSettings(question.data))
    batch = max(8, min(128, len(splits.train) // 8))
    return {
        "title": f"Which way of training suits {question.model} on {question.data}?",
        "question": f"Which of {len(ARMS)} ways of training gives the best {question.goal} here?",
        "goal": question.goal,
        "baseline": "plain",
        "base": {
            "data": {"name": question.data},
            "model": question.model,
            "batch_size": batch,
            "epochs": 1,
        },
        "arms": ARMS,
        "seeds": 5,
        "evaluation": {"images": 5000, "attacked": 500, "epsilons": ["2/255"], "steps": 10},
        "tune": TUNE,
    }


def _costs(study: Study) -> tuple[float, float]:
    """Seconds, on one thread, of an epoch of every arm together, and of measuring a run."""
    epoch, step = 0.0, 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cell in cells(study):
            with torch.random.fork_rng(), ExitStack() as stack:
                run = replace(cell.configuration.run, out="unused")
                session = Session(replace(cell.configuration, run=run))
                stack.enter_context(session.attached())
                make = one_step(session)
                make()
                times = []
                for _ in range(3):
                    began = time.perf_counter()
                    make()
                    times.append(time.perf_counter() - began)
                step = statistics.median(times)
                # A validation pass a third as long for each image; saving takes a moment.
                share = 1 + len(session.splits.validation) / (3 * session.examples)
                epoch += step * len(session.loader) * share + 0.2
                images = len(session.splits.test)
        size = study.base["batch_size"]
        attacked = min(500, images) * study.evaluation.steps
        return epoch, step / size * (min(5000, images) / 3 + attacked) * len(study.arms)
    finally:
        torch.set_num_threads(threads)


def plan_effort(epoch: float, measuring: float, seconds: float) -> Effort:
    """What fits into the time, a fifth of it kept in reserve.

    Args:
        epoch: Seconds of an epoch of every arm together.
        measuring: Seconds of measuring a run of every arm together.
        seconds: All there are, over all processes.
    """
    for tries, seeds in ((6, 5), (2, 3)):
        rounds = rounds_of(tries)
        # Each round of halving has as many epochs as two full runs.
        passes, runs = 2 * len(rounds) + seeds, sum(rounds) + seeds
        epochs = int((0.8 * seconds - runs * measuring) / (passes * epoch))
        if epochs >= FEWEST_EPOCHS:
            break
    return Effort(max(1, min(MOST_EPOCHS, epochs)), tries, seeds)


def _seeds(study: Study, effort: Effort, out: Path, workers: int, end: float) -> int:
    """Runs seed after seed while there is time, three at least; returns how many."""
    fewest = min(3, effort.seeds)
    for done in range(effort.seeds):
        began = time.monotonic()
        runs = plan(replace(study, seeds=(done,)), out)
        run_study(runs, out, workers=workers, patience=math.inf)
        took = time.monotonic() - began
        if done + 1 >= fewest and time.monotonic() + took > end:
            return done + 1
    return effort.seeds


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
    others = [arm for arm in study.arms if arm != study.baseline and mine[arm]]
    plain = mine[study.baseline]
    if not others or not plain:
        raise RunError("Too few runs ended to compare anything; the failures are on the page.")
    gains = {arm: paired(mine[arm], plain) for arm in others}
    best = max(others, key=lambda arm: statistics.fmean(gains[arm]) if gains[arm] else -math.inf)
    # An interval that holds for all comparisons at once (Bonferroni).
    interval = estimate(gains[best], 1 - 0.05 / len(others))
    shown = interval.low > 0 and interval.count >= 5
    chosen = best if shown else study.baseline
    what = "accuracy" if study.goal == "accuracy" else "accuracy under PGD at 2/255"
    ours, theirs = (statistics.fmean(mine[arm].values()) for arm in (best, study.baseline))
    against = f"{100 * ours:.1f} % against {100 * theirs:.1f} %"
    first = (
        f"Train with {best}: over {interval.count} seeds its {what} is"
        f" {100 * interval.mean:.1f} points above plain training's ({against})."
        if shown
        else f"Keep plain training: none of {len(others)} other ways was shown to have a better"
        f" {what}, the nearest being {best} with {100 * interval.mean:+.1f} points ({against})."
    )
    few = "" if interval.count >= 5 else f"; {interval.count} seeds are too few for a verdict"
    second = (
        f"The 95 % interval of that difference, which holds for all {len(others)} comparisons at"
        f" once, is {100 * interval.low:+.1f} to {100 * interval.high:+.1f} points{few}."
    )
    side = figures["robustness" if study.goal == "accuracy" else "accuracy"]
    change = paired(side[best], side[study.baseline])
    beside = "accuracy under PGD at 2/255" if study.goal == "accuracy" else "accuracy"
    steps = {arm: _step_time(found, arm) for arm in (best, study.baseline)}
    third = (
        f"A step with {best} takes {steps[best] / steps[study.baseline]:.2f} times plain training's"
        f" and its {beside} differs by {100 * statistics.fmean(change):+.1f} points; every way was"
        f" tuned with {sum(rounds_of(effort.tries))} runs and trained for {effort.epochs} epochs."
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
    method |= nested(settings).get("method", {})
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
