"""The time of a layerwise step over a plain one, of the same network in the same run.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --compile
    python benchmarks/overhead.py --device cuda --amp
    python benchmarks/overhead.py --models resnet20 --rounds 100 --arms "input and hidden"

Every arm trains its own copy of the network on the same random images, in the simplest loop there
is; the plain one is PyTorch alone. The arms make single steps in turn, forth and back, and begin
in turn, so that neither a drift of the machine's speed nor warm caches favour one. A figure is the
median over the rounds of the ratio within a round, with its quartiles. Where an arm's memory comes
to lie moves its time by some hundredths for as long as it lives: --builds makes all arms again so
often, each time for so many rounds; and a second copy of plain training runs along, which shows
how far the other figures can be trusted. Where the input is a site its gradient is needed, which
plain training never computes: such arms are also divided by plain training that computes it.
Writes benchmarks/results/overhead_<device>[_compiled][_channels_last][_bf16].json, again after each
build.

On a CPU the C library hands memory back and takes it again at random, which costs any step up to a
tenth of its time; MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ of some gigabytes in the
environment keep it from that, for all arms, and are named in the result file.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Iterator
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
    count,
    figures,
    hidden_sites,
    in_layout,
    known_models,
    result_file,
    run,
    show,
    step_of,
    timed,
    write,
)
from torch import nn

from advreg import Batch, LayerwiseAdversary
from advreg.errors import ConfigurationError
from advreg.models import build_model
from advreg.study.peak import Build
from advreg.study.workload import synthetic_batches

MODELS = {"cpu": "resnet20,vgg11,wrn-16-4", "cuda": "resnet20,resnet56,wrn-28-10"}
AGAIN = "plain, again"
BATCH = {"cpu": 128, "cuda": 1024}
REPEATS = {"cpu": 1, "cuda": 10}  # a GPU's queue is emptied before and after a turn


def adversaries(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The arms that perturb, by label, as arguments of `LayerwiseAdversary`."""
    hidden = hidden_sites(model)
    return {
        "hidden, absolute": {"sites": hidden, "relative": False},
        "hidden, relative": {"sites": hidden},
        "hidden, relative, rms_interval 10": {"sites": hidden, "rms_interval": 10},
        "input": {"sites": "input"},
        "input and hidden, absolute": {"relative": False},
        "input and hidden, relative": {},
        "example memory at the input": {"memory": "example"},
    }


def measure(name: str, options: Namespace) -> Iterator[dict[str, Any]]:
    """All arms of one network, after each build those of all builds so far."""
    torch.manual_seed(0)
    model = build_model(name, 10).to(options.device)
    batches = synthetic_batches((3, 32, 32), 10, options.batch_size, device=options.device)
    model, batches = in_layout(model, batches, options.channels_last)
    compile_as, fullgraph = compiler(model, batches[0]) if options.compile else (None, None)
    make = partial(step_of, model=model, batches=batches, compile_as=compile_as, amp=options.amp)
    with_input = partial(make, input_gradient=True)
    builds: dict[str, Build] = {PLAIN: make, AGAIN: make, WITH_INPUT: with_input}
    chosen = adversaries(model)
    if options.compile:  # the others run between the parts of compiled code
        chosen = {
            label: s for label, s in chosen.items() if not {"memory", "rms_interval"} & set(s)
        }
    chosen = {label: s for label, s in chosen.items() if label.startswith(options.arms)}
    if not chosen:
        raise ConfigurationError(
            f"No arm begins with {options.arms!r}; leave --arms out to see all."
        )
    for label, settings in chosen.items():
        adversary = LayerwiseAdversary(0.05, **settings)
        builds[label] = partial(make, adversary=adversary)
    race = partial(
        timed,
        device=options.device,
        rounds=options.rounds,
        repeats=options.repeats,
        threads=options.threads,
        warmup=3,  # memories are empty at first, and compilers compile twice
    )
    sites = {label: count_sites(model, settings, batches) for label, settings in chosen.items()}
    seconds: dict[str, list[float]] = {label: [] for label in builds}
    for _ in range(options.builds):
        for label, found in race(builds).items():
            seconds[label] += found
        yield {"fullgraph": fullgraph, "rows": compared(seconds, sites)}


def compared(seconds: dict[str, list[float]], sites: dict[str, int]) -> dict[str, Any]:
    """Each arm's ratios to both kinds of plain training, and what a site of it adds."""
    rows = figures(seconds, PLAIN, WITH_INPUT)
    for label, number in sites.items():
        added = [mine - plain for mine, plain in zip(seconds[label], seconds[PLAIN], strict=True)]
        rows[label]["sites"] = number
        rows[label]["microseconds a site"] = 1e6 * statistics.median(added) / number
    return rows


def tell(name: str, rows: dict[str, Any]) -> None:
    """Shows one network's rows."""
    for label, row in rows.items():
        CONSOLE.print(
            f"{name:10} {label:32} {show(row[f'over {PLAIN}'])} of plain,"
            f" {show(row[f'over {WITH_INPUT}'])} of plain with the input's gradient"
        )


def count_sites(model: nn.Module, settings: dict[str, Any], batches: tuple[Batch, ...]) -> int:
    described = LayerwiseAdversary(0.05, **settings).describe(model, batches[0].inputs)
    return sum(len(site.shapes) for site in described)


def main() -> None:
    parser = arguments(__doc__, rounds=30, threads=torch.get_num_threads())
    parser.add_argument(
        "--builds", type=count, default=1, help="how often all arms are made again (1)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--models", type=known_models, help="names of advreg.models, with commas between them"
    )
    parser.add_argument("--batch_size", type=count, help="images in a mini-batch (128; cuda 1024)")
    parser.add_argument("--repeats", type=count, help="steps a turn (1; cuda 10)")
    parser.add_argument("--compile", action="store_true", help="compiled against compiled")
    parser.add_argument("--channels_last", action="store_true", help="in that memory format")
    parser.add_argument("--amp", action="store_true", help="under bfloat16 autocast")
    parser.add_argument("--arms", default="", help="those whose names begin so (all)")
    parser.add_argument("--out", type=result_file, help="the result file")
    options = parser.parse_args()
    options.models = options.models or MODELS[options.device]
    options.batch_size = options.batch_size or BATCH[options.device]
    options.repeats = options.repeats or REPEATS[options.device]
    kinds = {"compiled": options.compile, "channels_last": options.channels_last}
    ending = "".join(f"_{kind}" for kind, on in {**kinds, "bf16": options.amp}.items() if on)
    out = options.out or RESULTS / f"overhead_{options.device}{ending}.json"
    found: dict[str, dict[str, Any]] = {}
    for name in options.models.split(","):
        for so_far in measure(name, options):
            found[name] = so_far
            tell(name, so_far["rows"])
            write(out, vars(options), models=found)


if __name__ == "__main__":
    run(main)
