"""Where the time of a layerwise step goes beyond a plain one's, operation by operation.

    python benchmarks/profile_step.py
    python benchmarks/profile_step.py --compile
    python benchmarks/profile_step.py --device cuda --amp

The arms of `overhead.py`, a step each in turn, forth and back, every step in torch's profiler. An
operation's figure is the median over the rounds of its own milliseconds in a step. Shown are the
sites' own operations, beside the time that the bytes they move would take at the bandwidth that
this machine copies with, and those operations of the network that differ most: a convolution
that finds its input cold is slower though nobody touched it. The profiler itself takes some
microseconds an operation, of a plain step's too. On a GPU, compiled sites are parts of the
compiler's own kernels, and show as differences of those. Writes
benchmarks/results/profile_step_<device>[_compiled][_bf16].json.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from harness import (
    CONSOLE,
    PLAIN,
    RESULTS,
    WITH_INPUT,
    arguments,
    compiler,
    hidden_sites,
    known_models,
    result_file,
    run,
    step_of,
    write,
)
from torch.profiler import ProfilerActivity, profile

from advreg import LayerwiseAdversary
from advreg.models import build_model
from advreg.study.cost import Step, torch_threads
from advreg.study.peak import Build
from advreg.study.workload import synthetic_batches

OURS = ("advreg::", "_Perturb", "_AddSigns", "_add", "_pack", "_Outlet", "_Record")
"""How the names of the sites' operations begin: on a CPU, and in eager mode on a GPU."""
SHOWN = 6

Times = dict[str, float]
"""Of each operation, its own milliseconds in a step."""


def settings_of(hidden: list[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """For each arm what it is compared with, and the arguments of `LayerwiseAdversary`."""
    return {
        "hidden, absolute": (PLAIN, {"sites": hidden, "relative": False}),
        "hidden, relative": (PLAIN, {"sites": hidden}),
        "input and hidden, absolute": (WITH_INPUT, {"relative": False}),
    }


def profiled(step: Step, device: str) -> Times:
    on_gpu = device == "cuda"
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # it would tell of each start and stop
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with profile(activities=activities, acc_events=False) as profiler:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times: Times = {}
    for event in profiler.key_averages():
        spent = getattr(event, kind) / 1000
        if spent:
            times[event.key] = times.get(event.key, 0.0) + spent
    return times


def medians(steps: list[Times]) -> Times:
    names = {name for times in steps for name in times}
    return {name: statistics.median(t.get(name, 0.0) for t in steps) for name in names}


def copy_bandwidth(device: str, size: int = 1 << 28) -> float:
    """Bytes read and written in a second by torch's own copy, the best of ten."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    best = math.inf
    for _ in range(10):
        began = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size / best


def moved(model: torch.nn.Module, inputs: torch.Tensor, options: Namespace, **settings: Any) -> int:
    """The bytes that the sites' operations must read and write in a step.

    Eager, forward the activation, its signs and the sum; backward the gradient and its signs. In
    compiled code the compiler adds in its own kernels, which read the signs besides, and write
    the sum once more in the backward pass.
    """
    values = 0
    sites = LayerwiseAdversary(0.05, **settings).describe(model, inputs)
    for site in sites:
        values += sum(math.prod(shape) for shape in site.shapes)
    width = 2 if options.amp else 4
    adding = 2 * 0.25 + 2 * width if options.compile else 2 * width + 0.25
    return int(values * (adding + width + 0.25))


def measure(options: Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    device = options.device
    model = build_model(options.model, 10).to(device)
    batches = synthetic_batches((3, 32, 32), 10, options.batch_size, device=device)
    compile_as = compiler(model, batches[0])[0] if options.compile else None
    make = partial(step_of, model=model, batches=batches, compile_as=compile_as, amp=options.amp)
    chosen = settings_of(hidden_sites(model))
    builds: dict[str, Build] = {PLAIN: make, WITH_INPUT: partial(make, input_gradient=True)}
    for label, (_, settings) in chosen.items():
        builds[label] = partial(make, adversary=LayerwiseAdversary(0.05, **settings))
    seen: dict[str, list[Times]] = {label: [] for label in builds}
    with ExitStack() as stack, torch_threads(options.threads):
        steps = {label: build(stack) for label, build in builds.items()}
        for step in [*steps.values()] * 3:  # memories are empty at first
            step()
        for number in range(options.rounds):
            for label in list(steps)[:: -1 if number % 2 else 1]:
                seen[label].append(profiled(steps[label], device))
    bandwidth = copy_bandwidth(device)
    CONSOLE.print(f"copies move {bandwidth / 1e9:.1f} GB/s")
    arms = {}
    for label, (baseline, settings) in chosen.items():
        traffic = moved(model, batches[0].inputs, options, **settings)
        arms[label] = compared(medians(seen[label]), medians(seen[baseline]), traffic, bandwidth)
        tell(label, baseline, arms[label])
    return {"bytes a second copied": bandwidth, "arms": arms}


def compared(mine: Times, plain: Times, traffic: int, bandwidth: float) -> dict[str, Any]:
    """The milliseconds of both steps, of the sites' operations, and how the others differ."""
    ours = {name: spent for name, spent in mine.items() if name.startswith(OURS)}
    others = {n: mine.get(n, 0.0) - plain.get(n, 0.0) for n in {*mine, *plain} - set(ours)}
    largest = sorted(others, key=lambda name: -abs(others[name]))
    return {
        "plain, ms": sum(plain.values()),
        "step, ms": sum(mine.values()),
        "ratio": sum(mine.values()) / sum(plain.values()),
        "sites' operations, ms": ours,
        "their bytes": traffic,
        "their bytes at the bandwidth, ms": 1000 * traffic / bandwidth,
        "others, ms": {name: others[name] for name in largest},
    }


def tell(label: str, baseline: str, arm: dict[str, Any]) -> None:
    ours = sum(arm["sites' operations, ms"].values())
    CONSOLE.print(
        f"{label}: {arm['ratio']:.3f} of {baseline} ({arm['plain, ms']:.1f} ms). Sites' operations"
        f" {ours:.2f} ms, whose {arm['their bytes'] / 1e6:.0f} MB take"
        f" {arm['their bytes at the bandwidth, ms']:.2f} ms at the bandwidth; other operations"
        f" {sum(arm['others, ms'].values()):+.2f} ms:"
    )
    for name, spent in list(arm["others, ms"].items())[:SHOWN]:
        CONSOLE.print(f"  {spent:+8.2f} ms  {name}", markup=False)


def main() -> None:
    parser = arguments(__doc__, rounds=20, batch_size=128, threads=1)
    parser.add_argument(
        "--model", type=known_models, default="resnet20", help="a name of advreg.models (resnet20)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="compiled against compiled")
    parser.add_argument("--amp", action="store_true", help="under bfloat16 autocast")
    parser.add_argument("--out", type=result_file, help="the result file")
    options = parser.parse_args()
    kinds = {"compiled": options.compile, "bf16": options.amp}
    ending = "".join(f"_{kind}" for kind, on in kinds.items() if on)
    out = options.out or RESULTS / f"profile_step_{options.device}{ending}.json"
    write(out, vars(options), **measure(options))


if __name__ == "__main__":
    run(main)
