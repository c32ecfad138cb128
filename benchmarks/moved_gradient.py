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
from dataclasses import dataclass
from typing import Any

import torch
from harness import result_file, run, save
from torch import Tensor, nn
from torch.nn import functional as F

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


@dataclass
class Frames:
    """Padded images (N, C, H + 8, W + 8), and what a view of them shows."""

    model: nn.Module
    pixels: Tensor
    targets: Tensor

    def window(self, values: Tensor, down: int, across: int, flip: bool) -> Tensor:
        """A view of frames, moved from the middle."""
        height, width = (size - 2 * PADDING for size in values.shape[-2:])
        top, left = PADDING + down, PADDING + across
        cut = values[..., top : top + height, left : left + width]
        return cut.flip(-1) if flip else cut

    def signs(self, *move: Any) -> Tensor:
        """The signs of the gradient of a view, in the frame; zero out of sight."""
        inputs = self.window(self.pixels, *move).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(inputs), inputs)
        found, (down, across, flip) = torch.zeros_like(self.pixels), move
        signs = gradient.sign()
        self.window(found, down, across, False).copy_(signs.flip(-1) if flip else signs)
        return found

    def loss(self, inputs: Tensor) -> Tensor:
        """Of views."""
        return F.cross_entropy(self.model(inputs), self.targets)

    def rise(self, signs: Tensor, *move: Any) -> float:
        """By how much the loss of a view rises under signs in the frame."""
        inputs = self.window(self.pixels, *move)
        with torch.no_grad():
            moved = (inputs + EPSILON * self.window(signs, *move)).clamp(0, 1)
            return (self.loss(moved) - self.loss(inputs)).item()


def measure(path: str) -> dict[str, dict[str, float]]:
    """Of one run, for each move the agreement of signs and the share of the rise."""
    model, configuration = load_run(path)
    train = build_data(configuration.data).train
    pixels = F.pad(train.images[:IMAGES], (PADDING,) * 4).float() / 255
    frames = Frames(model.eval(), pixels, train.targets[:IMAGES])
    kept, found = frames.signs(0, 0, False), {}
    for name, move in MOVES.items():
        own = frames.signs(*move)
        seen = (kept != 0) & (own != 0)
        found[name] = {
            "agreement": (kept * own)[seen].mean().item(),
            "share of the rise": frames.rise(kept, *move) / frames.rise(own, *move),
        }
    return found


def main() -> None:
    """Measures the runs of each label."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN,RUN,...")
    parser.add_argument("--out", type=result_file, required=True)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for given in options.runs:
        label, _, paths = given.partition("=")
        runs = [measure(path) for path in paths.split(",")]
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
