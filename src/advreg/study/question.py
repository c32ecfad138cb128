"""One network, one folder of images, so many minutes: which way of training is worth it here?"""

from __future__ import annotations

import math
import shlex
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from advreg.errors import RunError
from advreg.files import check_folder, replace_file
from advreg.study.budget import one_step
from advreg.study.compare import finish, plan, run_study
from advreg.study.definition import Study
from advreg.study.engines import Here
from advreg.study.execution import DONE, FAILED, state
from advreg.study.files import read_json, write_json
from advreg.study.pool import available_cores
from advreg.study.reading import read_study, study_from
from advreg.study.recommendation import Effort, Question, recommend
from advreg.study.runs import cells
from advreg.study.tuning import TUNED, rounds_of, tune
from advreg.training.builders import build_data
from advreg.training.session import Session
from advreg.training.settings import DataSettings

QUESTION = "question.yaml"
ANSWER = "recommendation.json"
EFFORT = "effort.json"

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


def answer(
    question: Question, out: Path, workers: int | None = None, began: float | None = None
) -> dict[str, Any]:
    """Tunes, compares, and recommends, within the question's minutes.

    What is under way when the time is up is saved and left out, and the answer is made from the
    seeds that every arm has finished. The same call goes on where another one was stopped, with
    minutes of its own.

    Args:
        question: What is asked.
        out: The study's folder.
        workers: Processes; None is one a core.
        began: Since when the minutes count, by `time.monotonic`; None is now.

    Returns:
        `arm`, the one that is recommended; `sentences`, three of them; `command`, which trains so;
        and `code`, a line to paste.

    Raises:
        RunError: The folder holds another question, or nothing was finished.
    """
    end = (time.monotonic() if began is None else began) + 60 * question.minutes
    check_folder(out)
    console = Console(highlight=False)
    number = workers or available_cores()
    study, effort = _study(question, out, number, end)
    console.print(
        f"{effort.epochs} epochs a run, {effort.tries} runs of tuning for each way, then up to"
        f" {effort.seeds} seeds.",
        markup=False,
    )
    engine = Here(number)
    found, effort = _tuned(study, effort, out, engine, end)
    done = _seeds(found, effort, out, engine, end)
    if not done:
        for name in (EFFORT, TUNED):  # so that more minutes are planned for
            (out / name).unlink(missing_ok=True)
        raise RunError(
            f"No seed was finished with every way of training in {question.minutes:g} minutes;"
            " ask again with more --minutes."
        )
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


def _study(question: Question, out: Path, workers: int, end: float) -> tuple[Study, Effort]:
    """The study that the folder holds, or a new one as long as there is time for."""
    path = out / QUESTION
    asked = {"model": question.model, "data": question.data, "goal": question.goal}
    known = read_json(out / EFFORT)
    if known is not None and path.exists():
        if known["asked"] != asked:
            raise RunError(f"{out} holds another question's answer; name another folder.")
        return read_study(path), Effort(**known["effort"])
    values = _values(question)
    costs = _costs(study_from(values), 3 * question.minutes)
    effort = plan_effort(*costs, max(0.0, end - time.monotonic()) * workers)
    values["base"]["epochs"] = effort.epochs
    out.mkdir(parents=True, exist_ok=True)
    _write(path, values)
    write_json(out / EFFORT, {"asked": asked, "effort": vars(effort), "costs": costs})
    return read_study(path), effort


def _write(path: Path, values: dict[str, Any]) -> None:
    text = yaml.safe_dump(values, sort_keys=False)
    replace_file(path, lambda name: name.write_text(text, encoding="utf-8"))


def _tuned(
    study: Study, effort: Effort, out: Path, engine: Here, end: float
) -> tuple[Study, Effort]:
    """The study with each arm's settings, and what there is time for after finding them.

    Tuning has half of the time. How long it took says how fast this machine is now, under
    whatever else it does, and that may leave fewer epochs or seeds than were planned.
    """
    known = read_json(out / EFFORT)
    if (out / TUNED).exists():
        return read_study(out / TUNED), Effort(**known["effort"])
    began, before = time.monotonic(), _trained(out)
    half = began + max(0.0, end - began) / 2
    found, record = tune(study, out, effort.tries, engine=engine, patience=math.inf, until=half)
    took, trained = time.monotonic() - began, _trained(out) - before
    planned, measuring = known["costs"]
    # Seconds of an epoch of every arm together, over all processes, as they turned out to be.
    epoch = took * engine.at_once * len(study.arms) / trained if trained > 0 else math.inf
    slower = max(1.0, epoch / planned)
    seconds = max(0.0, end - time.monotonic()) * engine.at_once
    effort = lowered(effort, slower * planned, slower * measuring, seconds)
    effort = replace(effort, tuned=len(record) // len(study.arms))
    values = {**found.text, "base": {**found.text["base"], "epochs": effort.epochs}}
    write_json(out / EFFORT, {**known, "effort": vars(effort)})
    _write(out / TUNED, values)
    return read_study(out / TUNED), effort


def _trained(out: Path) -> int:
    """Epochs of all runs in a study's folder."""
    lines = (path.read_bytes().count(b"\n") for path in out.glob("runs/*/run/metrics.jsonl"))
    return sum(lines)


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


def _costs(study: Study, patience: float) -> tuple[float, float]:
    """Seconds, on one thread, of an epoch and of measuring a run, of every arm together.

    Where that takes longer than `patience`, in seconds, fewer steps say it less exactly.
    """
    start = time.perf_counter()
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
                times: list[float] = []
                while len(times) < 4 and not (times and time.perf_counter() - start > patience):
                    began = time.perf_counter()
                    make()
                    times.append(time.perf_counter() - began)
                step = statistics.median(times[1:] or times)  # the first is slow
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


def lowered(effort: Effort, epoch: float, measuring: float, seconds: float) -> Effort:
    """What is left of an effort after tuning: fewer seeds, then fewer epochs, where it must be.

    Args:
        effort: What was planned.
        epoch: As of `plan_effort`, measured again.
        measuring: As of `plan_effort`, measured again.
        seconds: What is left, over all processes.
    """
    epochs = 0
    for seeds in (effort.seeds, min(3, effort.seeds)):
        room = 0.8 * seconds / seeds - measuring
        epochs = int(room / epoch) if room > 0 else 0
        if epochs >= effort.epochs:
            break
    return replace(effort, epochs=max(1, min(effort.epochs, epochs)), seeds=seeds)


def _seeds(study: Study, effort: Effort, out: Path, engine: Here, end: float) -> int:
    """Runs seed after seed while there is time; returns how many every arm has finished."""
    for done in range(effort.seeds):
        began = time.monotonic()
        runs = plan(replace(study, seeds=(done,)), out)
        run_study(runs, out, engine=engine, patience=math.inf, until=end)
        if any(state(run, out) not in (DONE, FAILED) for run in runs):
            return done
        took = time.monotonic() - began
        if done + 1 >= min(3, effort.seeds) and time.monotonic() + took > end:
            return done + 1
    return effort.seeds
