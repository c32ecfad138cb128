"""What each method costs on this machine: the time of a step and the peak of its memory."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from advreg.batch import Batch
from advreg.errors import AdvregError, AdvregWarning, ConfigurationError
from advreg.files import check_results, replace_text
from advreg.layerwise import default_sites
from advreg.methods import METHODS, build_method
from advreg.models import build_model
from advreg.progress import Clock, ProgressBar
from advreg.report import bench_chart, print_bench
from advreg.study.cost import (
    FEWEST_ROUNDS,
    Cost,
    Step,
    Timer,
    device_clock,
    relative,
    time_steps,
    torch_threads,
)
from advreg.study.environment import environment
from advreg.study.peak import Build, peak_bytes
from advreg.study.plan import Arm
from advreg.study.workload import count_classes, synthetic_batches, training_step
from advreg.training.builders import choose_device

BASELINE = "standard"

VARIANTS: dict[str, dict[str, Any]] = {
    "layerwise-hidden": {"sites": ["hidden"]},
    "layerwise-input": {"sites": ["input"]},
    "layerwise-example": {"memory": "example"},
}
"""Settings of layerwise that cost differently from its defaults, which are all sites and slots."""

LEFT_OUT = ("lots", "label_smoothing")
"""Not measured unless named: one stops when it likes, the other's step is plain training's."""

DEFAULT = (
    BASELINE,
    "layerwise",
    *VARIANTS,
    *(name for name in METHODS if name not in (BASELINE, "layerwise", *LEFT_OUT)),
)
"""What is measured when nothing is named."""


@dataclass(frozen=True)
class BenchSettings:
    """What is measured, on what.

    Args:
        model: A name that `advreg.models.build_model` knows; or `module:function`, a network of
            one's own.
        methods: Names of methods, composed ones such as "layerwise+sam", or `VARIANTS`.
        batch_size: Images in a mini-batch.
        image_size: Height and width in pixels.
        in_channels: 1 for grey images, 3 for colour.
        num_classes: Outputs of the network; one of one's own has its own number.
        device: auto, cpu or cuda.
        threads: Threads of the CPU while steps are timed; None leaves torch's choice.
        rounds: How often each method has its turn.
        repeats: Steps a turn.

    Raises:
        ConfigurationError: A number cannot work.
    """

    model: str = "resnet20"
    methods: Sequence[str] = DEFAULT
    batch_size: int = 20
    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    device: str = "auto"
    threads: int | None = None
    rounds: int = 20
    repeats: int = 1

    def __post_init__(self) -> None:
        least = dict.fromkeys(("batch_size", "image_size", "repeats", "threads"), 1)
        for name, fewest in {**least, "rounds": FEWEST_ROUNDS}.items():
            value = getattr(self, name)
            if value is not None and value < fewest:
                raise ConfigurationError(
                    f"{name} is {value}; give a whole number of at least {fewest}."
                )


def run_bench(
    settings: BenchSettings, out: str | os.PathLike[str] = "runs/bench", overwrite: bool = False
) -> Path:
    """Measures, prints a table, and writes `bench.json` and `bench.svg`.

    Returns:
        The folder.

    Raises:
        AdvregError: The settings cannot work, or the folder holds a measurement already.
    """
    began = time.perf_counter()
    folder = Path(out)
    check_results(folder, "bench.json", overwrite)
    console = Console(highlight=False)
    results = bench(settings, console) | {"seconds": time.perf_counter() - began}
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"bench.json": json.dumps(results, indent=1), "bench.svg": bench_chart(results)}
    for name, text in texts.items():
        replace_text(folder / name, text)
    print_bench(results, console)
    console.print(
        f"Chart: {folder / 'bench.svg'}   Figures: {folder / 'bench.json'}"
        f"   ({results['seconds']:.0f} s)",
        soft_wrap=True,
        markup=False,
    )
    return folder


def bench(
    settings: BenchSettings,
    console: Console,
    clock: Timer | None = None,
) -> dict[str, Any]:
    """Measures every method, plain training first.

    Args:
        settings: What, on what.
        console: Shows the progress.
        clock: Returns seconds; None is the device's.

    Returns:
        What `bench.json` holds.
    """
    device = choose_device(settings.device)
    settings = replace(settings, device=device)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", AdvregWarning)  # what is learnt is of no interest here
        torch.manual_seed(0)
        model, batches = _workload(settings)
        arms = bench_arms(settings.methods, model)
        builds = {arm.label: build_of(arm, model, batches) for arm in arms}
        peaks, left_out = _peaks(builds, device, console)
        able = {label: builds[label] for label in peaks}
        costs = _times(able, settings, console, clock or device_clock(device))
        with torch_threads(settings.threads):
            threads = torch.get_num_threads()
    return {
        "kind": "advreg bench",
        "format": 1,
        "environment": environment(),
        "settings": {**asdict(settings), "threads": threads},
        "baseline": BASELINE,
        "rows": [_row(arm, costs, peaks) for arm in arms if arm.label in peaks],
        "left_out": left_out,
    }


def _workload(settings: BenchSettings) -> tuple[nn.Module, tuple[Batch, ...]]:
    channels, size, device = settings.in_channels, settings.image_size, settings.device
    model = build_model(settings.model, settings.num_classes, channels, size)
    shape = (channels, size, size)
    classes = count_classes(model, shape)
    batches = synthetic_batches(shape, classes, settings.batch_size, device=device)
    return model.to(device), batches


def bench_arms(names: Sequence[str], model: nn.Module) -> tuple[Arm, ...]:
    """Each named method once, plain training first; "hidden" becomes the network's hidden sites.

    Raises:
        ConfigurationError: There is no such method.
    """
    arms = []
    for name in dict.fromkeys((BASELINE, *names)):
        if name not in VARIANTS:
            build_method(name)  # an unknown one is refused before anything is measured
            arms.append(Arm(name, name))
            continue
        chosen = dict(VARIANTS[name])
        if chosen.get("sites") == ["hidden"]:
            chosen["sites"] = default_sites(model)[1:]
        arms.append(Arm(name, "layerwise", chosen))
    return tuple(arms)


def build_of(arm: Arm, model: nn.Module, batches: tuple[Batch, ...]) -> Build:
    """What makes a training step of one method on a fresh copy of the network."""

    def build(stack: ExitStack) -> Step:
        method = build_method(arm.method, **arm.settings)
        return training_step(stack, model, batches, method)

    return build


def _times(
    builds: dict[str, Build],
    settings: BenchSettings,
    console: Console,
    clock: Timer,
) -> dict[str, Cost]:
    with ExitStack() as stack, ProgressBar(console, "timing steps") as bar:
        work = Clock(bar)
        steps = {label: build(stack) for label, build in builds.items()}
        seconds = time_steps(
            steps,
            rounds=settings.rounds,
            repeats=settings.repeats,
            threads=settings.threads,
            clock=clock,
            progress=lambda done, total, _: work.at(done, total, "timing steps"),
        )
    return relative(seconds, BASELINE)


def _peaks(
    builds: dict[str, Build], device: str, console: Console
) -> tuple[dict[str, int], dict[str, str]]:
    """The peaks, and why a method that does not work with this network is left out."""
    peaks, left_out = {}, {}
    with ProgressBar(console, "counting bytes") as bar:
        work = Clock(bar)
        for done, (label, build) in enumerate(builds.items(), start=1):
            try:
                peaks[label] = peak_bytes(build, device, steps=2)
            except (AdvregError, RuntimeError) as error:  # torch's, such as no second derivative
                reason = " ".join(str(error).split())[:200]
                if label == BASELINE:
                    raise ConfigurationError(f"Plain training fails: {reason}") from error
                left_out[label] = reason
            work.at(done, len(builds), "counting bytes")
    return peaks, left_out


def _row(arm: Arm, costs: dict[str, Cost], peaks: dict[str, int]) -> dict[str, Any]:
    method = build_method(arm.method, **arm.settings)
    return {
        "label": arm.label,
        "method": arm.method,
        "settings": arm.settings,
        "passes": method.passes,
        "replays": method.replays,
        "time": asdict(costs[arm.label]),
        "peak_bytes": peaks[arm.label],
        "peak_ratio": peaks[arm.label] / peaks[BASELINE],
    }
