"""Trainings that share the card: all arms at once, for the same wall time."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.common import DEVICE, Clock

from advreg.data import load_data

EXAMPLE = {"name": "layerwise", "memory": "example", "sites": ["input"], "epsilon": "8/255"}

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"name": "standard"},
    "fast_at": {"name": "rs_fgsm", "epsilon": "8/255"},
    "n_fgsm": {"name": "n_fgsm", "epsilon": "8/255"},
    "free": {"name": "free", "epsilon": "8/255"},
    "nuat": {"name": "nuat", "epsilon": "8/255"},
    "layerwise": {
        "name": "layerwise",
        "sites": "@default",
        "epsilon": {"**": 0.01, "input": "8/255"},
    },
    "example": EXAMPLE,
    "example_accumulating": {**EXAMPLE, "step_size": "4/255"},
    "example_blocks": {**EXAMPLE, "views": {"view_epochs": 2, "view_block": 20}},
    "free_2_example": {"name": "free", "epsilon": "8/255", "replays": 2, "memory": "example"},
}
"""Trained with their methods' own defaults beside what stands here; `views` is the loader's."""

EVALUATION = 0.3
"""Share of the time that is kept for measuring."""

GRACE = 8
"""Seconds kept at the end, to gather what there is."""


def train_all(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """Starts a process an arm, ends those that are late, and gathers what each has measured."""
    names = options.arms.split(",")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.pt"
        left = clock.left() - GRACE
        end = time.time() + left * (1 - EVALUATION)
        running = {name: _start(name, data, Path(folder), end, options) for name in names}
        try:
            _decode(options.data, data)  # while they are starting
        except BaseException:
            for process in running.values():
                process.kill()
            raise
        for name, process in running.items():
            try:
                process.wait(timeout=max(clock.left() - GRACE / 3, 1))
            except subprocess.TimeoutExpired:
                process.kill()
            found[name] = {"arm": ARMS[name], **_outcome(Path(folder) / name, process)}
    return found


def _decode(source: str, path: Path) -> None:
    """Decodes the images once for all processes; they train on those for validation too."""
    splits = load_data(source)
    train, held, test = splits.train, splits.validation, splits.test
    parts = {
        "train": (torch.cat([train.images, held.images]), torch.cat([train.targets, held.targets])),
        "test": (test.images, test.targets),
        "classes": len(train.classes),
    }
    torch.save(parts, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def _start(
    name: str, data: Path, folder: Path, end: float, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    task = {
        "arm": ARMS[name],
        "data": str(data),
        "out": str(folder / f"{name}.json"),
        "asked": time.time(),
        "end": end,
        "seed": options.seed,
        "device": DEVICE,
        "toy": options.toy,
    }
    log = (folder / f"{name}.log").open("wb")
    command = [sys.executable, "-m", "benchmarks.gpu.one", json.dumps(task)]
    threads = max((os.cpu_count() or 1) // len(options.arms.split(",")), 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _outcome(path: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a process has written so far, and its last lines where it did not end well."""
    results = path.with_suffix(".json")
    found: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    if process.wait() != 0:
        lines = path.with_suffix(".log").read_text(errors="replace").splitlines()
        found |= {"code": process.returncode, "log": lines[-8:]}
    return found
