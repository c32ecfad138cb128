"""What the gradient of an image is worth for the same image cropped or mirrored otherwise.

Of finished runs, with the network in evaluation mode: the signs of the loss gradient of training
images in the middle of their padded frame are moved to another view, as example memory moves them.
There they are compared with the signs of that view's own gradient, where both are in sight: the
mean of their products, 1 where all agree and 0 by chance. And the moved signs' rise of the loss, at
`EPSILON`, is divided by that of the view's own.

    python benchmarks/moved_gradient.py --out FILE LABEL=RUN,RUN,... ...
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from harness import labelled, result_file, run, save
from torch import Tensor
from torch.nn import functional as F

from advreg import View
from advreg.layerwise.example_store import ExampleStore
from advreg.study import estimate
from advreg.training import load_run
from advreg.training.builders import build_data

IMAGES, PADDING, EPSILON = 500, 4, 8 / 255

MOVES = {
    **{f"{pixels} across": (0, pixels, False) for pixels in (1, 2, 3, 4)},
    "4 down": (4, 0, False),
    "4 down and across": (4, 4, False),
    "3 down, 2 across": (3, 2, False),
    "mirrored": (0, 0, True),
    "mirrored, 3 down, 2 across": (3, 2, True),
}


def view_of(count: int, down: int, across: int, flip: bool) -> View:
    """The same view of all images, moved from the middle."""
    top, left = (torch.full((count,), PADDING + move) for move in (down, across))
    return View(top, left, torch.full((count,), flip), PADDING)


def measure(path: str) -> dict[str, dict[str, float]]:
    """Of one run, for each move the agreement of signs and the share of the rise."""
    model, configuration = load_run(path)
    model.eval()
    train = build_data(configuration.data).train
    targets = train.targets[:IMAGES]
    frames = F.pad(train.images[:IMAGES], (PADDING,) * 4).float() / 255
    count, memory = len(frames), ExampleStore()

    def loss(inputs: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs), targets)

    def signs(inputs: Tensor) -> Tensor:
        inputs = inputs.clone().requires_grad_()
        return torch.autograd.grad(loss(inputs), inputs)[0].sign()

    def rise(inputs: Tensor, step: Tensor) -> float:
        with torch.no_grad():
            moved = (inputs + EPSILON * step).clamp(0, 1)
            return (loss(moved) - loss(inputs)).item()

    middle = view_of(count, 0, 0, False)
    inputs = middle.apply(frames)
    memory.read(torch.arange(count), middle, torch.zeros_like(inputs))  # makes room
    memory.write(torch.arange(count), middle, signs(inputs))
    found = {}
    for name, move in MOVES.items():
        view = view_of(count, *move)
        inputs = view.apply(frames)
        own = signs(inputs)
        kept = memory.read(torch.arange(count), view, own)
        seen = (kept != 0) & (own != 0)
        found[name] = {
            "agreement": (kept * own)[seen].mean().item(),
            "share of the rise": rise(inputs, kept) / rise(inputs, own),
        }
    return found


def main() -> None:
    """Measures the runs of each label."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=labelled, metavar="LABEL=RUN,RUN,...")
    parser.add_argument("--out", type=result_file, required=True)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for label, paths in options.runs:
        runs = [measure(path) for path in paths]
        results[label] = {move: {} for move in MOVES}
        for move in MOVES:
            for figure in runs[0][move]:
                values = [each[move][figure] for each in runs]
                mean = estimate(values) if len(values) > 1 else None
                interval = [mean.mean, mean.low, mean.high] if mean else values
                results[label][move][figure] = {"mean": interval, "runs": values}
            print(label, move, {name: each["mean"] for name, each in results[label][move].items()})
    save(options.out, images=IMAGES, epsilon="8/255", results=results)


if __name__ == "__main__":
    run(main)
