"""Kills trainings, resumes them, and compares them with undisturbed ones, to the bit.

    python -m tests.campaigns.kill --times 100

Each time the training runs in a process of its own and gets SIGKILL at a random moment: at an
optimizer step, or at a random line of the code that writes files. Then it is resumed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tests.campaigns import report

from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    RunFolder,
    RunSettings,
    train,
)

METHODS: dict[str, dict[str, Any]] = {
    "standard": {},
    "fgsm": {"epsilon": 0.1},
    "layerwise": {"epsilon": 0.1},
    "layerwise example": {"epsilon": 0.1, "memory": "example", "sites": ["input"]},
}
EPOCHS, STEPS = 3, 3


def configuration(out: Path, method: str) -> Configuration:
    return Configuration(
        RunSettings(
            str(out),
            EPOCHS,
            batch_size=20,
            tensorboard=False,
            device="cpu",
            threads=1,
            checkpoint_every=2,
        ),
        DataSettings("digits", limit=50, validation=30, augment="crop_flip", padding=1),
        ModelSettings("convnet"),
        MethodSettings(method.split()[0], METHODS[method]),
        OptimizerSettings(ema=0.9),
    )


def train_until_killed(out: Path, method: str, moment: int, kind: str) -> None:
    """Trains, and kills its own process at the `moment`-th event of a kind."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def step(frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == "update" and code.co_filename.endswith("loop.py"):
            count()

    if kind == "step":
        sys.setprofile(step)
    if kind == "write":
        sys.settrace(lambda frame, *_: lines(frame, count))
    train(configuration(out, method), resume=True, quiet=True)


def lines(frame: Any, count: Any) -> Any:
    """Traces the lines of the modules that write, and nothing else."""
    if not frame.f_code.co_filename.endswith(("files.py", "checkpoint.py", "lock.py", "folder.py")):
        return None

    def line(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            count()
        return line

    return line


def outcome(out: Path) -> dict[str, Any]:
    """Everything that a run leaves but times."""
    folder = RunFolder(out)
    last, best = folder.load(folder.last), folder.load(folder.best)
    for contents in (last, best):
        contents["identity"]["settings"].pop("out", None)
    last["tally"].pop("seconds")
    metrics = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    for record in metrics:
        record.pop("seconds")
        record.pop("seconds_per_step")
    return {"last": last, "best": best, "metrics": metrics, "files": sorted(os.listdir(out))}


def same(first: Any, second: Any) -> bool:
    """Whether two nested values are equal to the bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def campaign(times: int, seed: int, minutes: float | None = None) -> dict[str, Any]:
    """Kills so many trainings and counts how they ended.

    Args:
        times: How many trainings; each is killed one to three times.
        seed: Draws the methods and the moments.
        minutes: Ends earlier, after so many.
    """
    draw, began = random.Random(seed), time.monotonic()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")  # no second import of torch
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        whole: dict[str, Any] = {}
        for number in range(times):
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                break
            method = draw.choice(list(METHODS))
            if method not in whole:
                train(configuration(Path(temporary, method), method), quiet=True)
                whole[method] = outcome(Path(temporary, method))
            out = Path(temporary, str(number))
            plan = []
            for _ in range(draw.randint(1, 3)):
                kind = draw.choice(["step", "write"])
                plan.append((draw.randint(1, 9 if kind == "step" else 700), kind))
            for moment, kind in plan:
                process = context.Process(
                    target=train_until_killed, args=(out, method, moment, kind)
                )
                process.start()
                process.join()
                counts[f"killed while {kind}" if process.exitcode == -9 else "ended"] += 1
                if process.exitcode not in (0, -9):
                    wrong.append(f"{number} {method} {plan}: exit code {process.exitcode}")
            process = context.Process(target=train_until_killed, args=(out, method, 0, "none"))
            process.start()
            process.join()
            counts["trainings"] += 1
            if process.exitcode or not same(outcome(out), whole[method]):
                wrong.append(f"{number} {method} {plan}: another outcome")
    return {
        "trainings": counts["trainings"],
        "equal_to_the_bit": counts["trainings"] - len(wrong),
        "kills_at_a_step": counts["killed while step"],
        "kills_while_writing": counts["killed while write"],
        "ended_before_the_kill": counts["ended"],
        "wrong": wrong,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    options = parser.parse_args()
    figures = campaign(options.times, options.seed)
    report("campaign_kill", figures, options.out)
    return bool(figures["wrong"])


if __name__ == "__main__":
    raise SystemExit(main())
