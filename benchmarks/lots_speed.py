"""What LOTS takes beside the passes that it is made of, and beside a loop over pairs.

Steps of `advreg.attacks.lots` against a plain loop of the same forward and backward passes over the
whole batch; then pairs whose targets are near and far, which stop by themselves, against that loop
until the slowest has arrived and against the pairs one at a time. Times are of the processor.

    python benchmarks/lots_speed.py --out benchmarks/results/lots_speed.json
"""

from __future__ import annotations

import time
from argparse import Namespace
from functools import partial
from typing import Any

import torch
from harness import CONSOLE, RESULTS, arguments, ratio, result_file, run, show, write
from torch import Tensor, nn

from advreg.attacks import lots
from advreg.models import build_model
from advreg.study.cost import relative, time_steps

PASSES, OURS = "passes alone", "advreg"
BATCH, SINGLES, STOPPING = "whole batch", "one pair at a time", "advreg"
SIZE = 1 / 255


def plain(model: nn.Module, layer: str, origins: Tensor, targets: Tensor, steps: int) -> Tensor:
    """The steps, with no condition to stop."""
    caught: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: caught.append(output)
    )
    with torch.no_grad():
        model(targets)
    images, goal = origins, caught.pop()
    for _ in range(steps):
        images = images.detach().requires_grad_()
        model(images)
        (gradient,) = torch.autograd.grad((caught.pop() - goal).square().sum() / 2, images)
        largest = gradient.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
        images = (images - SIZE * gradient / largest).clamp(0, 1)
    handle.remove()
    return images.detach()


def pairs(count: int, image_size: int) -> tuple[Tensor, Tensor]:
    """Images, and targets from 0.02 away for the nearest to 0.3 for the farthest."""
    numbers = torch.Generator().manual_seed(0)
    origins = torch.rand(count, 3, image_size, image_size, generator=numbers)
    noise = torch.rand(origins.shape, generator=numbers) * 2 - 1
    reach = torch.linspace(0.02, 0.3, count).view(-1, 1, 1, 1)
    return origins, (origins + reach * noise).clamp(0, 1)


def measure(options: Namespace, layer: str, image_size: int = 32) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_model(options.models, 10, 3, image_size).eval()
    origins, targets = pairs(options.batch_size, image_size)
    free: dict[str, Any] = {"until_class": False, "step_size": SIZE}
    steps = options.repeats
    timed = partial(
        time_steps,
        rounds=options.rounds,
        repeats=1,
        threads=options.threads,
        clock=time.process_time,
    )
    whole = timed(
        {
            PASSES: lambda: plain(model, layer, origins, targets, steps),
            OURS: lambda: lots(model, origins, targets, layer, steps, **free),
        }
    )
    half = {**free, "share": 0.5, "steps": 300}
    slowest = int(lots(model, origins, targets, layer, **half).steps.max())

    def singles() -> None:
        for origin, target in zip(origins.split(1), targets.split(1), strict=True):
            lots(model, origin, target, layer, **half)

    stopping = timed(
        {
            BATCH: lambda: plain(model, layer, origins, targets, slowest),
            SINGLES: singles,
            STOPPING: lambda: lots(model, origins, targets, layer, **half),
        }
    )
    return {
        "layer": layer,
        "steps of the slowest": slowest,
        "same steps, over passes alone": ratio(relative(whole, PASSES)[OURS]),
        "stopping, over the whole batch": ratio(relative(stopping, BATCH)[STOPPING]),
        "one at a time, over stopping": ratio(relative(stopping, STOPPING)[SINGLES]),
    }


def main() -> None:
    parser = arguments(__doc__, models="convnet", rounds=20, repeats=10, batch_size=16, threads=1)
    parser.add_argument("--layer", default="blocks.3", help="whose output is matched (blocks.3)")
    parser.add_argument(
        "--out", default=RESULTS / "lots_speed.json", type=result_file, help="the result file"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options, options.layer)
    for name, value in found.items():
        CONSOLE.print(f"{name}: {show(value) if isinstance(value, dict) else value}")
    write(options.out, vars(options), found=found)


if __name__ == "__main__":
    run(main)
