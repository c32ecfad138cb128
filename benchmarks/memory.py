"""The peak of memory in a layerwise step, beside a plain one's and beside what is expected.

    python benchmarks/memory.py
    python benchmarks/memory.py --models resnet20 --skip_compiled
    python benchmarks/memory.py --device cuda --models resnet20,resnet56,wrn-28-10

Every allocation and release of torch is followed, so on a CPU the figures are exact and the same
each time: weights, gradients, momentum, memories, activations and the operations' workspace. In
eager mode a perturbed activation is one more saved tensor, for ReLU keeps its own output and the
next layer the perturbed one: expected is the plain peak, the memories' bytes (of signs, packed)
and one activation a site. A compiler can recompute the perturbed one, and so only its ratio is
shown: as torch.compile does it, and without its search for the order of operations that takes
least memory, which does not count what convolutions take for themselves
(`options={"reorder_for_peak_memory": False}`, for plain training too). Writes
benchmarks/results/memory.json, again after each network.
"""

from __future__ import annotations

from argparse import Namespace
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
    result_file,
    run,
    step_of,
    write,
)
from torch import nn

from advreg import Batch, LayerwiseAdversary
from advreg.models import build_model
from advreg.study.peak import Build, peak_bytes
from advreg.study.workload import synthetic_batches

EPSILON = 0.05

COMPILED: dict[str, dict[str, Any]] = {
    "compiled": {},
    "compiled, not reordered": {"reorder_for_peak_memory": False},
}
"""The compiler's options."""


def arms(model: nn.Module) -> dict[str, tuple[str, dict[str, Any]]]:
    """For each label what it is compared with, and the arguments of `LayerwiseAdversary`."""
    hidden = hidden_sites(model)
    return {
        "hidden, absolute": (PLAIN, {"sites": hidden, "relative": False}),
        "hidden, relative": (PLAIN, {"sites": hidden}),
        "input": (WITH_INPUT, {"sites": "input"}),
        "input and hidden, relative": (WITH_INPUT, {}),
    }


def extra_bytes(model: nn.Module, batch: Batch, settings: dict[str, Any]) -> dict[str, int]:
    """What the sites are expected to add: their memories, and one activation each."""
    sites = LayerwiseAdversary(EPSILON, **settings).describe(model, batch.inputs)
    values = [sum(torch.Size(shape).numel() for shape in site.shapes) for site in sites]
    widths = [torch.empty((), dtype=site.dtype).element_size() for site in sites]
    return {
        "sites": len(sites),
        "memories": sum(site.memory_bytes for site in sites),
        "activations": sum(n * width for n, width in zip(values, widths, strict=True)),
    }


def measure(name: str, options: Namespace, form: str) -> dict[str, Any]:
    """The peaks of all arms of one network, eager or in a compiled form."""
    torch.manual_seed(0)
    model = build_model(name, 10).to(options.device)
    batches = synthetic_batches((3, 32, 32), 10, options.batch_size, device=options.device)
    compile_as, fullgraph = None, None
    if compiled := form in COMPILED:
        compile_as, fullgraph = compiler(model, batches[0], **COMPILED[form])
    make = partial(step_of, model=model, batches=batches, compile_as=compile_as)

    def peak(build: Build) -> int:
        return peak_bytes(build, options.device)

    plain = {PLAIN: peak(make), WITH_INPUT: peak(partial(make, input_gradient=True))}
    rows: dict[str, dict[str, Any]] = {label: {"bytes": found} for label, found in plain.items()}
    for label, (baseline, settings) in arms(model).items():
        found = peak(partial(make, adversary=LayerwiseAdversary(EPSILON, **settings)))
        extra = extra_bytes(model, batches[0], settings)
        expected = extra["memories"] + extra["activations"]
        rows[label] = {
            "bytes": found,
            "over": baseline,
            "ratio": found / plain[baseline],
            "added": found - plain[baseline],
            **({} if compiled else {"expected": expected, **extra}),
        }
        said = "" if compiled else f", {rows[label]['added']:,} more; expected {expected:,}"
        CONSOLE.print(
            f"{name:10} {form:23} {label:28} {rows[label]['ratio']:.4f} of {baseline}{said}"
        )
    return {"rows": rows, **({"fullgraph": fullgraph} if compiled else {})}


def main() -> None:
    parser = arguments(__doc__, models="resnet20,vgg11,wrn-16-4", batch_size=128)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--skip_compiled", action="store_true", help="eager alone")
    parser.add_argument(
        "--out", type=result_file, default=RESULTS / "memory.json", help="result file"
    )
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name in options.models.split(","):
        found[name] = {}
        for form in ("eager", *(() if options.skip_compiled else COMPILED)):
            found[name][form] = measure(name, options, form)
        write(options.out, vars(options), models=found)


if __name__ == "__main__":
    run(main)
