"""Smoke, the tests on a card, and the time and memory of a step."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.common import DEVICE, Clock
from torch.nn import functional as F

from advreg import LayerwiseAdversary
from advreg.batch import Batch
from advreg.layerwise import default_sites
from advreg.methods import build_method
from advreg.models import build_model
from advreg.study.cost import device_clock, relative, time_steps

ROUNDS, REPEATS = 20, 3

PLAIN = "plain"


@dataclass(frozen=True)
class Work:
    """A network, its mini-batch, and what a step computes in."""

    model: str
    batch_size: int
    precision: str

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch_size}, {self.precision}"


WORK = (
    Work("resnet20", 1024, "fp32"),
    Work("preactresnet18", 128, "bf16"),
    Work("preactresnet18", 128, "fp32"),
    Work("wrn-28-10", 128, "bf16"),
)
TOY = (Work("resnet20", 8, "fp32"),)

ARMS: dict[str, dict[str, Any]] = {
    PLAIN: {"name": "standard"},
    "layerwise": {"name": "layerwise"},
    "layerwise, hidden sites": {"name": "layerwise", "sites": "hidden"},
    "layerwise, example memory": {"name": "layerwise", "memory": "example"},
    "fgsm": {"name": "rs_fgsm"},
}
COMPILED = (PLAIN, "layerwise", "layerwise, hidden sites")
"""Arms that are measured under torch.compile too."""


def smoke(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """One attached step, whose perturbation must change the next loss."""
    torch.manual_seed(0)
    model = build_model("resnet20", 10).to(DEVICE)
    images, targets = torch.rand(8, 3, 32, 32, device=DEVICE), torch.arange(8, device=DEVICE)
    losses = []
    with LayerwiseAdversary(0.1).attach(model):
        for _ in range(2):
            loss = F.cross_entropy(model(images), targets)
            loss.backward()
            losses.append(loss.item())
    if losses[0] == losses[1]:
        raise RuntimeError("the second step was not perturbed")
    return {"losses": losses}


def run_tests(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """The tests of the card, in a process of their own."""
    tests = Path(__file__).parents[2] / "tests" / "gpu"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rfEs",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        str(tests),
    ]
    if DEVICE == "cuda" and find_spec("xdist"):  # they mostly wait for the compiler
        command += ["-n", "6"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=max(0.6 * clock.left(), 1)
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the tests took more than {error.timeout:.0f} s") from None
    lines = done.stdout.strip().splitlines()
    return {"code": done.returncode, "summary": lines[-1:], "tail": lines[-25:]}


def measure_steps(options: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """Arms by turns, for one network after the other while there is time."""
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {}
    least = clock.left() * (0.5 if "trainings" in options.pieces else 0)
    for compiled in (False,) if options.toy else (False, True):
        longest = 20.0
        for work in TOY if options.toy else WORK:
            label = f"{work}{', compiled' if compiled else ''}"
            if clock.left() < least + 1.2 * longest:
                found[label] = "no time was left"
                continue
            began = time.monotonic()
            found[label] = _measure(work, compiled)
            longest = max(longest, time.monotonic() - began)
            print(f"  {label}: {found[label]['relative']}", flush=True)
    return found


def _measure(work: Work, compiled: bool) -> dict[str, Any]:
    torch.compiler.reset()  # a function is compiled anew only so often
    with ExitStack() as stack:
        steps, peaks = {}, {}
        for name in COMPILED if compiled else ARMS:
            before = _allocated()
            steps[name] = stack.enter_context(_Step(work, ARMS[name], compiled))
            peaks[name] = _peak(steps[name], before)
        seconds = time_steps(
            steps,
            rounds=ROUNDS,
            repeats=1 if DEVICE == "cpu" else REPEATS,
            warmup=1 if DEVICE == "cpu" else 3,
            threads=None,
            clock=device_clock(DEVICE),
        )
        sites = {name: step.sites() for name, step in steps.items()}
    costs = relative(seconds, PLAIN)
    plain = statistics.median(seconds[PLAIN])
    extra = {name: statistics.median(times) - plain for name, times in seconds.items()}
    return {
        "milliseconds": {name: round(cost.milliseconds, 3) for name, cost in costs.items()},
        "relative": {name: round(cost.median, 4) for name, cost in costs.items()},
        "spread": {name: asdict(cost) for name, cost in costs.items()},
        "microseconds_a_site": {
            name: round(1e6 * extra[name] / count, 1) for name, count in sites.items() if count
        },
        "peak_bytes": peaks,
    }


class _Step:
    """One training step of an arm on a network of its own; a context."""

    def __init__(self, work: Work, arm: dict[str, Any], compiled: bool) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last
        self.model = build_model(work.model, 10).to(DEVICE, memory_format=layout)
        images = torch.rand(work.batch_size, 3, 32, 32, device=DEVICE)
        targets = torch.randint(0, 10, (work.batch_size,), device=DEVICE)
        indices = torch.arange(work.batch_size, device=DEVICE)
        self.batch = Batch(images.contiguous(memory_format=layout), targets, indices)
        settings = {name: value for name, value in arm.items() if name != "name"}
        hidden = default_sites(self.model)[1:]
        if settings.get("sites") == "hidden":
            settings["sites"] = hidden
        self.method = build_method(arm["name"], **settings)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.autocast = torch.autocast(
            DEVICE, torch.bfloat16, enabled=work.precision == "bf16" and DEVICE == "cuda"
        )
        network: Callable[..., Any] = torch.compile(self.model) if compiled else self.model
        self.network = network

    def __enter__(self) -> _Step:
        self.attached = self.method.attach(self.model, steps_per_epoch=10, examples=4096)
        self.attached.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self.attached.__exit__(*reason)

    def sites(self) -> int:
        """How many tensors are perturbed."""
        adversary = getattr(self.method, "adversary", None)
        return sum(row["runs"] > 0 for row in adversary.statistics().values()) if adversary else 0

    def __call__(self) -> None:
        with self.autocast:
            self.method.step(self.network, self.batch, F.cross_entropy, torch.Tensor.backward)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _allocated() -> int:
    return torch.cuda.memory_allocated() if DEVICE == "cuda" else 0


def _peak(step: _Step, before: int) -> int | None:
    """The most memory that a network and its step take, beside what lay there before."""
    if DEVICE == "cpu":
        return None
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
