"""How the cost of layerwise training grows with sites, batch, width and depth.

    python benchmarks/growth.py

- sites: 1 to 60 of the 60 equal blocks of a plain stack of convolutions;
- batch: 16 to 1,024 images, a stack of 8 blocks, every block a site;
- width: 1 to 8 times 8 channels, the same stack;
- depth: ResNet-20 to ResNet-110, hidden sites by default.

Every point is a plain and a perturbed network (slot memory, relative budget) that make steps in
turn, forth and back: the ratio's median and quartiles, the milliseconds added, and these for each
million of values perturbed. The slope of log(added) over log(values) is fitted for each panel: 1
is linear, less is better. Points that add nothing measurable cannot be in the fit and are said.
Writes benchmarks/results/growth.json and docs/images/growth.svg; --plot draws from the file.
"""

from __future__ import annotations

import json
import math
import statistics
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth_plot import draw
from harness import (
    CONSOLE,
    RESULTS,
    arguments,
    figures,
    hidden_sites,
    result_file,
    run,
    show,
    step_of,
    timed,
    write,
)
from torch import Tensor, nn

from advreg import LayerwiseAdversary
from advreg.errors import ConfigurationError
from advreg.files import replace_file
from advreg.models import build_model
from advreg.study.peak import Build
from advreg.study.workload import synthetic_batches

PLOT = Path(__file__).parents[1] / "docs" / "images" / "growth.svg"

EPSILON = 0.05


class Stack(nn.Module):
    """Equal blocks of a convolution, a normalisation and a ReLU, on 16x16 images."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                )
                for _ in range(blocks)
            )
        )
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


def spread(count: int, blocks: int) -> list[str]:
    """The names of so many blocks, evenly apart."""
    return [f"blocks.{round(place)}" for place in np.linspace(0, blocks - 1, count)]


def points(
    model: nn.Module, size: int, batch: int, sites: dict[float, list[str]], options: Namespace
) -> list[dict[str, Any]]:
    """One run: a plain network, and one for each choice of sites."""
    batches = synthetic_batches((3, size, size), 10, batch, count=2)
    make = partial(step_of, model=model, batches=batches)
    builds: dict[str, Build] = {"plain": make}
    values = {}
    for x, names in sites.items():
        adversary = LayerwiseAdversary(EPSILON, names)
        described = adversary.describe(model, batches[0].inputs)
        values[x] = sum(math.prod(shape) for site in described for shape in site.shapes)
        builds[str(x)] = partial(make, adversary=adversary)
    seconds = timed(builds, rounds=options.rounds, repeats=1, threads=options.threads, warmup=3)
    rows = figures(seconds, "plain")
    found = []
    for x, names in sites.items():
        pairs = zip(seconds[str(x)], seconds["plain"], strict=True)
        added = 1000 * statistics.median(mine - plain for mine, plain in pairs)
        point = {"x": x, "sites": len(names), "values": values[x], "added_ms": added}
        point["ms_per_million"] = 1e6 * added / values[x]
        found.append(point | rows[str(x)]["over plain"])
        CONSOLE.print(f"{x}: {show(found[-1])}, {point['ms_per_million']:.3f} ms a million")
    return found


def measure(options: Namespace) -> dict[str, list[dict[str, Any]]]:
    """The four panels."""
    panels: dict[str, list[dict[str, Any]]] = {}
    torch.manual_seed(0)
    by_count = {count: spread(count, 60) for count in (1, 4, 15, 30, 60)}
    panels["sites"] = points(Stack(60, 8), 16, 32, by_count, options)
    every = spread(8, 8)
    panels["batch"] = [
        point
        for batch in (16, 64, 256, 1024)
        for point in points(Stack(8, 16), 16, batch, {batch: every}, options)
    ]
    panels["width"] = [
        point
        for times in (1, 2, 4, 8)
        for point in points(Stack(8, 8 * times), 16, 64, {times: every}, options)
    ]
    panels["depth"] = []
    for depth in (20, 32, 44, 56, 110):
        model = build_model(f"resnet{depth}", 10)
        panels["depth"] += points(model, 32, 16, {depth: hidden_sites(model)}, options)
    return panels


def slope(points: list[dict[str, Any]]) -> float | None:
    """Of log(added) over log(values); None where fewer than three points added anything."""
    usable = [point for point in points if point["added_ms"] > 0]
    if len(usable) < 3:
        return None
    logs = [[math.log(p["values"]), math.log(p["added_ms"])] for p in usable]
    return float(np.polyfit(*np.transpose(logs), 1)[0])


def main() -> None:
    parser = arguments(__doc__, rounds=30, threads=torch.get_num_threads())
    parser.add_argument("--plot", action="store_true", help="draw the result file, measure nothing")
    parser.add_argument("--image", type=Path, default=PLOT, help="where the plot goes")
    parser.add_argument(
        "--out", type=result_file, default=RESULTS / "growth.json", help="result file"
    )
    options = parser.parse_args()
    if not options.plot:
        panels = measure(options)
        slopes = {name: slope(found) for name, found in panels.items()}
        write(options.out, vars(options), slopes=slopes, panels=panels)
    elif not options.out.is_file():
        raise ConfigurationError(f"There is no {options.out} to draw; leave --plot out to measure.")
    results = json.loads(options.out.read_text(encoding="utf-8"))
    for name, found in results["panels"].items():
        nothing = [point["x"] for point in found if point["added_ms"] <= 0]
        CONSOLE.print(f"{name}: slope {results['slopes'][name]}, not measurable at {nothing}")
    svg = draw(results)
    replace_file(options.image, lambda path: path.write_text(svg, encoding="utf-8"))


if __name__ == "__main__":
    run(main)
