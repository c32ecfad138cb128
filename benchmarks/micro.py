"""Small costs beside the step itself: pairing, attaching, and the training loop.

    python benchmarks/micro.py

- Pairing: the order alone for two mini-batches of random classes, with the gather of a
  CIFAR batch by `advreg.pair` beside it, in milliseconds.
- Attaching to and detaching from a network of 1,000 modules, every one of them a site, and one
  whose default sites are every second of them.
- The training loop: an epoch of `advreg train`'s own loop on random images of CIFAR's form (data,
  crops and flips, moving to the next batch, sums of losses, the progress bar, the check of the
  weights at the end) over as many bare steps (forward, backward, optimizer) on batches made
  before. Validation and checkpoints are an epoch's, not a step's, and are not in it.

Epochs and bare steps take turns, forth and back, and so does a second copy that makes bare steps,
which shows how far the figure can be trusted; --builds makes them all again so often. Writes
benchmarks/results/micro.json.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import CONSOLE, RESULTS, arguments, count, known_models, result_file, run, show, write
from loop_steps import loop
from torch import nn

from advreg import Batch, LayerwiseAdversary, pair
from advreg.layerwise import pairing_order
from advreg.study.cost import torch_threads

TIMES = 200


def milliseconds(call: Callable[[], object], times: int = TIMES) -> dict[str, float | int]:
    """The median of single calls, with its quartiles."""
    call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    lower, median, upper = statistics.quantiles(taken, n=4, method="inclusive")
    return {"median": median, "lower": lower, "upper": upper, "times": times}


def pairing(examples: int = 512, classes: int = 10) -> dict[str, Any]:
    targets, before = torch.randint(0, classes, (2, examples))
    batch = Batch(torch.rand(examples, 3, 32, 32), targets)
    return {
        "order": milliseconds(lambda: pairing_order(targets, before)),
        "order and gather": milliseconds(lambda: pair(batch, before)),
    }


def attaching(modules: int = 1000) -> dict[str, Any]:
    flat = nn.Sequential(*(nn.ReLU() for _ in range(modules)))
    deep = nn.Sequential(*(nn.Sequential(nn.ReLU()) for _ in range(modules // 2)))
    names = [str(number) for number in range(modules)]

    def attached(model: nn.Module, sites: list[str] | None) -> Callable[[], None]:
        return lambda: LayerwiseAdversary(0.1, sites).attach(model).detach()

    return {
        "every module by one glob": milliseconds(attached(flat, ["*"]), 50),
        "every module by its name": milliseconds(attached(flat, names), 10),
        "default sites, every second module": milliseconds(attached(deep, None), 50),
    }


def main() -> None:
    parser = arguments(__doc__, rounds=20, batch_size=128, threads=torch.get_num_threads())
    parser.add_argument(
        "--model", type=known_models, default="resnet20", help="of the loop (resnet20)"
    )
    parser.add_argument(
        "--builds", type=count, default=1, help="how often the loop is made again (1)"
    )
    parser.add_argument("--steps", type=count, default=10, help="steps a turn of the loop (10)")
    parser.add_argument(
        "--out", type=result_file, default=RESULTS / "micro.json", help="result file"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch_threads(options.threads):
        found = {"pairing 512 examples, ms": pairing(), "1,000 modules, ms": attaching()}
    for name, figure in found.items():
        for kind, spread in figure.items():
            CONSOLE.print(f"{name}, {kind}: {show(spread)}")
    found["training loop"] = loop(options)
    for kind, name in (("over bare", "training loop"), ("bare, again, over bare", "a second copy")):
        CONSOLE.print(f"{name} over bare steps: {show(found['training loop'][kind])}")
    write(options.out, vars(options), **found)


if __name__ == "__main__":
    run(main)
