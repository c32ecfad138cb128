"""A small network and its images, for the tests of evaluations."""

from dataclasses import dataclass

import torch
from torch import nn

from advreg.errors import ConfigurationError
from advreg.evaluation import evaluate_suite

SETTINGS = {"epsilons": ["8/255", 0.1], "batch_size": 20, "probe": 20, "limit": 40}


@dataclass(frozen=True)
class Images:
    images: torch.Tensor
    targets: torch.Tensor


class Returns(nn.Module):
    """A network whose outputs are a function of the inputs, (B, 1, 4, 4)."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).eval()


def images(count=50):
    """Images labelled by the network itself but for every fifth."""
    pixels = torch.randint(
        0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    targets = network()(pixels / 255).argmax(1)
    targets[::5] = (targets[::5] + 1) % 3
    return Images(pixels, targets)


def without_square(monkeypatch):
    """Square takes a second of its own: it says that it cannot work here."""

    def refuse(*_):
        raise ConfigurationError("Square is left out of this test.")

    monkeypatch.setattr("advreg.evaluation.suites.check_images", refuse)


def timeless(result):
    """The figures without the times."""
    if isinstance(result, dict):
        return {name: timeless(part) for name, part in result.items() if name != "seconds"}
    return result


def found_in(**settings):
    """Figures and examples of a suite, without the times."""
    found = evaluate_suite(network(), images(), **{**SETTINGS, **settings})
    examples = {name: values.tolist() for name, values in found.evaluation.examples().items()}
    return timeless(found.to_dict()), examples


if __name__ == "__main__":  # the test that kills an evaluation for real runs this file
    import sys
    from pathlib import Path

    from advreg.evaluation.pieces import Pieces

    torch.set_num_threads(1)
    Pieces.__init__.__kwdefaults__["every"] = 0.2
    found_in(suite="standard", corruptions="own", epsilons=[0.1], folder=Path(sys.argv[1]))
