"""Tuned settings of each method on each data set, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings found on validation data.

    Args:
        settings: Of the method.
        source: The study they come from, for people.
        when: Settings that the user must have chosen for this recipe to be meant, such as
            `{"memory": "example"}`.
    """

    settings: dict[str, Any]
    source: str
    when: dict[str, Any] = field(default_factory=dict)


_DIGITS = (
    "tuned on validation images of digits, six candidates a method:"
    " benchmarks/results/tune_digits.json"
)

_CIFAR10 = (
    "tuned on validation images of CIFAR-10 with ResNet-20, three candidates a method, 2,000"
    " images, 10 epochs, one seed: benchmarks/results/tune_cifar10.json"
)

RECIPES: dict[str, dict[str, tuple[Recipe, ...]]] = {
    "digits": {
        "dropout": (Recipe({"p": 0.3}, _DIGITS),),
        "fgsm": (Recipe({"epsilon": 0.2}, _DIGITS),),
        # A budget by site did a little better and names one network's blocks; this fits all.
        "layerwise": (
            Recipe({"sites": ["input"], "epsilon": 0.3}, _DIGITS),
            Recipe({"epsilon": 0.2}, _DIGITS, when={"memory": "example"}),
        ),
    },
    "cifar10": {
        "dropout": (Recipe({"p": 0.2}, _CIFAR10),),
        "fgsm": (Recipe({"epsilon": "2/255"}, _CIFAR10),),
        "layerwise": (
            Recipe({"sites": ["input"], "epsilon": "8/255"}, _CIFAR10),
            Recipe(
                {"epsilon": "4/255", "step_size": "5/255", "start": "random"},
                _CIFAR10,
                when={"memory": "example"},
            ),
        ),
    },
}
"""Data set, then method, then its recipes, the more particular ones last."""


def find_recipe(data: str, method: str, chosen: dict[str, Any]) -> Recipe | None:
    """The recipe for a method on a data set.

    Args:
        data: The data set's name, or a folder that is named after it.
        method: The method's name.
        chosen: The method's settings that the user gave. Settings are tuned together, so a
            recipe that one of them contradicts or repeats is not used in part.

    Returns:
        The last recipe whose conditions the chosen settings meet; None where there is none.
    """
    fitting = [
        recipe
        for recipe in RECIPES.get(Path(data).name.lower(), {}).get(method, ())
        if recipe.when.items() <= chosen.items() and not recipe.settings.keys() & chosen.keys()
    ]
    return fitting[-1] if fitting else None
