"""The ways in which a site was built, beside the one that is kept.

    python benchmarks/designs.py

Eager, hidden sites, absolute budget, each over plain training of the same network:

- kept: signs packed to two bits, a compiled kernel for each direction, perturbed tensors in
  buffers that are used again, written past the caches;
- fresh memory: the same, with a fresh tensor for each perturbed activation;
- plain torch operations: the same memories without compiled kernels, as on a machine without a
  compiler.

Compiled (`--compile`), the sites as parts of the graph:

- kept: the compiler adds the perturbation in its own kernels, an operator of ours packs the signs,
  and the backward pass computes the perturbed activation again;
- saved: the same, but the compiler decides what to save;
- fused: packing too is left to the compiler's own kernels, to bytes of four values (what is kept
  on a GPU).

Earlier designs and their variants, measured at the commits that they name: operators of ours both
for adding and for packing in designs_compiled_operators.json, bytes of four rows in place of words
of sixteen values in designs_compiled_bytes.json.

Each arm's peak of memory is beside its time. Of the eager design that is kept, the milliseconds of
each kernel in a step are shown too, and what is left of the added time, which no kernel of ours
takes: memory that the next layers find cold.
Writes benchmarks/results/designs.json, or designs_compiled.json.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from harness import (
    CONSOLE,
    PLAIN,
    RESULTS,
    arguments,
    compiler,
    count,
    figures,
    hidden_sites,
    known_models,
    result_file,
    run,
    show,
    step_of,
    timed,
    write,
)

from advreg import LayerwiseAdversary
from advreg.layerwise.compiled import graph
from advreg.layerwise.kernels import buffers, cpu, layout
from advreg.models import build_model
from advreg.study.cost import Step
from advreg.study.peak import peak_bytes
from advreg.study.workload import synthetic_batches

KEPT = "kept"
Swap = tuple[Any, str, Any]
"""An object, its attribute, and what is put there while a design's step runs."""

EAGER: dict[str, list[Swap]] = {
    KEPT: [],
    "fresh memory": [(buffers, "empty_like", lambda tensor: torch.empty_like(tensor))],
    "plain torch operations": [(cpu, "library", dict)],
}
COMPILED: dict[str, list[Swap]] = {
    KEPT: [],
    "saved": [(graph, "checkpoint", lambda call, *args, **_: call(*args))],
    "fused": [(layout, "PACKS_BY_OPERATOR", ())],
}


def swapped(stack: ExitStack, swaps: list[Swap], make: Callable[..., Step], **options: Any) -> Step:
    """A step that runs with parts put in place of others."""
    step = make(stack, **options)

    def run() -> None:
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in swaps]
        try:
            for owner, name, part in swaps:
                setattr(owner, name, part)
            step()
        finally:
            for owner, name, part in before:
                setattr(owner, name, part)

    return run


def kernel_milliseconds(build: Callable[[ExitStack], Step], threads: int) -> dict[str, float]:
    """What each kernel takes in a step, the median of 20."""
    spent: dict[str, list[float]] = {"add": [], "pack": []}
    torch.set_num_threads(threads)
    with ExitStack() as stack:
        step = build(stack)
        step()
        kernels = {key: clocked(call, spent[key[0]]) for key, call in cpu.library().items()}
        stack.callback(setattr, cpu, "library", cpu.library)
        cpu.library = lambda: kernels
        for _ in range(20):
            for taken in spent.values():
                taken.append(0.0)
            step()
    return {name: 1000 * statistics.median(taken) for name, taken in spent.items()}


def clocked(call: Callable[..., Any], taken: list[float]) -> Callable[..., Any]:
    """The call, its seconds added to the last of `taken`."""

    def timed_call(*args: Any) -> Any:
        began = time.perf_counter()
        result = call(*args)
        if taken:
            taken[-1] += time.perf_counter() - began
        return result

    return timed_call


def measure(name: str, options: Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_model(name, 10)
    batches = synthetic_batches((3, 32, 32), 10, options.batch_size)
    compile_as = compiler(model, batches[0])[0] if options.compile else None
    make = partial(step_of, model=model, batches=batches, compile_as=compile_as)
    builds = {PLAIN: make}
    for label, swaps in (COMPILED if options.compile else EAGER).items():
        adversary = LayerwiseAdversary(0.05, hidden_sites(model), relative=False)
        builds[label] = partial(swapped, swaps=swaps, make=make, adversary=adversary)
    seconds = timed(builds, rounds=options.rounds, repeats=1, threads=options.threads, warmup=3)
    rows = figures(seconds, PLAIN)
    for label, row in rows.items():
        row["peak bytes"] = peak_bytes(builds[label])
        row["peak over plain"] = row["peak bytes"] / rows[PLAIN]["peak bytes"]
        CONSOLE.print(
            f"{name:10} {label:24} {show(row[f'over {PLAIN}'])} of plain,"
            f" peak memory {row['peak over plain']:.3f}"
        )
    if not options.compile:
        rows[KEPT]["kernels, ms"] = kernel_milliseconds(builds[KEPT], options.threads)
        CONSOLE.print(f"{name:10} kernels, ms: {rows[KEPT]['kernels, ms']}")
    return rows


def main() -> None:
    parser = arguments(__doc__, rounds=20, threads=1)
    parser.add_argument(
        "--models", type=known_models, default="resnet20", help="names of advreg.models (resnet20)"
    )
    parser.add_argument(
        "--batch_size", type=count, default=128, help="images in a mini-batch (128)"
    )
    parser.add_argument("--compile", action="store_true", help="compiled against compiled")
    parser.add_argument("--out", type=result_file, help="the result file")
    options = parser.parse_args()
    out = options.out or RESULTS / f"designs{'_compiled' if options.compile else ''}.json"
    found = {name: measure(name, options) for name in options.models.split(",")}
    write(out, vars(options), models=found)


if __name__ == "__main__":
    run(main)
