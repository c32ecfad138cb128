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


# PLACEHOLDER: empty until the tuning runs have been made; every method with the same effort.
RECIPES: dict[str, dict[str, tuple[Recipe, ...]]] = {}
"""Data set, then method, then its recipes, the more particular ones last."""


def find_recipe(data: str, method: str, chosen: dict[str, Any]) -> Recipe | None:
    """The recipe for a method on a data set.

    Args:
        data: The data set's name, or a folder that is named after it.
        method: The method's name.
        chosen: The method's settings that the user gave; they win over the recipe's.

    Returns:
        The last recipe whose conditions the chosen settings meet; None where there is none.
    """
    fitting = [
        recipe
        for recipe in RECIPES.get(Path(data).name.lower(), {}).get(method, ())
        if recipe.when.items() <= chosen.items()
    ]
    return fitting[-1] if fitting else None
