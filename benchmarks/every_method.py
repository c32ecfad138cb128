"""Trains every method from the command line, on digits and on a little of CIFAR-10.

These runs are short: they show that each method runs to its end with a finite loss, not how well
it learns nor, the processor being shared, what it costs in time.

    python benchmarks/every_method.py --cifar10 FOLDER --out benchmarks/results/every_method.json

FOLDER holds CIFAR-10 as parquet files; without it the digits alone are trained on. With --only the
rows of some arms are made, such as a new method's, each with its own environment; the file keeps
its others. The exit code is 1 if a method fails.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from harness import arguments, result_file, run, save

from advreg.methods import METHODS
from advreg.methods.composed import PARTNERS
from advreg.study.environment import environment
from advreg.study.plan import Arm, Plan, run_plan

PROGRAM = [sys.executable, "-c", "import sys; from advreg.cli import main; sys.exit(main())"]

OPTIONS = {
    "digits": "--model convnet --epochs 10 --limit 512 --batch_size 64 --threads 1",
    "cifar10": "--model resnet20 --epochs 2 --limit 2000 --batch_size 128 --threads 1",
}
"""What is not named here is the program's default."""

ARMS = (
    *(Arm(name, name) for name in METHODS),
    *(Arm(f"layerwise+{name}", f"layerwise+{name}") for name in PARTNERS),
    *(Arm(f"{name}+awp", f"{name}+awp") for name in ("layerwise", "rs_fgsm")),
    Arm("layerwise, example memory", "layerwise", {"memory": "example"}),
    Arm("layerwise, random signs", "layerwise", {"direction": "random"}),
    Arm("datagrad, exact", "datagrad", {"exact": "true"}),
    Arm("datagrad, L2", "datagrad", {"norm": "l2"}),
    Arm("input_gradient, uniform", "input_gradient", {"uniform": "true"}),
    Arm("previous_fgsm, last batch's start", "previous_fgsm", {"start": "batch"}),
)
"""All that `--method` takes, and the settings that make another row of the literature."""


def train(arm: Arm, seed: int, *, options: list[str]) -> dict[str, Any]:
    """Runs `advreg train` once and reads what it left in its folder."""
    settings = [
        text for name, value in arm.settings.items() for text in (f"--method.{name}", value)
    ]
    with tempfile.TemporaryDirectory() as folder:
        run, before = Path(folder, "run"), os.times()
        command = [*PROGRAM, "train", *options, "--method", arm.method, *settings]
        command += ["--seed", str(seed), "--out", str(run)]
        done = subprocess.run(command, capture_output=True, text=True)
        after, metrics = os.times(), run / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    epochs = [json.loads(line) for line in lines]
    last = epochs[-1] if epochs else {}
    return {
        "settings": arm.settings,
        "exit_code": done.returncode,
        "passed": done.returncode == 0 and math.isfinite(last.get("train_loss", math.nan)),
        "epochs": len(epochs),
        **{name: last.get(name) for name in ("passes", "train_loss", "validation_accuracy")},
        "processor_seconds": sum(after[2:4]) - sum(before[2:4]),  # of the child
        "warnings": [text for line in epochs for text in line.get("warnings", [])],
        "error": done.stderr.strip() if done.returncode else None,
    }


def train_all(data: str, source: str, arms: tuple[Arm, ...], workers: int | None) -> dict[str, Any]:
    """Arms on one data set, by label; a run that could not be started has passed nothing."""

    def progress(done: int, total: int, what: str) -> None:
        print(f"{data}: {done}/{total} {what}", flush=True)

    work = partial(train, options=["--data", source, *OPTIONS[data].split()])
    outcome = run_plan(Plan(arms, (0,)), work, workers, progress)
    found = {row.pop("arm"): row for row in outcome.rows}
    failures = {f.arm: {"passed": False, "error": f.reason} for f in outcome.failures}
    return {"options": OPTIONS[data], "methods": found | failures}


def merged(earlier: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The rows of an earlier file with these in their places, each with its environment."""
    for name, part in data.items():
        rows = {
            label: row | {"environment": environment()} for label, row in part["methods"].items()
        }
        earlier[name]["methods"] |= rows
    return earlier


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--cifar10", help="A folder of CIFAR-10's parquet files.")
    parser.add_argument("--workers", type=int, help="Runs at a time; one a core if left out.")
    parser.add_argument("--out", required=True, type=result_file, help="The JSON file to write.")
    parser.add_argument("--only", help="Labels of arms, with commas between them.")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [arm.label for arm in ARMS]
    arms = tuple(arm for arm in ARMS if arm.label in wanted)
    if len(arms) < len(wanted):
        parser.error(f"--only names {options.only}; choose from {[arm.label for arm in ARMS]}")
    sources = {"digits": "digits"} | ({"cifar10": options.cifar10} if options.cifar10 else {})
    data = {
        name: train_all(name, source, arms, options.workers) for name, source in sources.items()
    }
    if options.only:
        data = merged(json.loads(options.out.read_text(encoding="utf-8"))["data"], data)
    what = (
        "advreg train --data DATA OPTIONS --method METHOD; accuracies are those that the run"
        " reported on its own validation images after its last epoch"
    )
    save(options.out, what=what, data=data)
    failed = []
    for name, part in data.items():
        for label, row in part["methods"].items():
            if row["passed"]:
                print(f"{name:8}{label:36}loss {row['train_loss']:.3f}", end="  ")
                print(f"accuracy {row['validation_accuracy']:.3f}  passes {row['passes']:g}")
            else:
                failed.append(f"{name}: {label}: {row['error']}")
    print(*failed, f"{len(failed)} failed", sep="\n")
    if failed or any(len(part["methods"]) < len(ARMS) for part in data.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
