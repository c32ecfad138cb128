"""What is usual on each known data set: augmentation, and each method's tuned settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from advreg.data import Columns, identify
from advreg.training.configuration import Configuration
from advreg.training.settings import DataSettings
from advreg.units import choice

GOALS = ("accuracy", "robustness")
"""What a recipe or a study is chosen by: accuracy on clean images, or under attack as well."""


@dataclass(frozen=True)
class Recipe:
    """A method's settings, found on validation data.

    Args:
        settings: Of the method.
        source: The study they come from, for people.
        when: Settings that the user must have chosen for this recipe to be meant, such as
            `{"memory": "example"}`.
        goal: Which of `GOALS` it was chosen by; None is the mean of both accuracies.
        data: Of `DataSettings`, what belongs to it, such as how soon an image comes again.
    """

    settings: dict[str, Any]
    source: str
    when: dict[str, Any] = field(default_factory=dict)
    goal: str | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Its goal and its source, for people."""
        return self.source if self.goal is None else f"by {self.goal}, {self.source}"

    def suits(self, data: DataSettings, epochs: int) -> bool:
        """Whether its part of the data can be used: nothing else was chosen, and there is time."""
        free = all(getattr(data, name) == getattr(DataSettings(), name) for name in self.data)
        return free and epochs >= self.data.get("view_epochs", 1)


@dataclass(frozen=True)
class DatasetRecipe:
    """What is usual on one data set.

    Args:
        augment: As of `DataSettings`.
        padding: As of `DataSettings`; None is an eighth of the images' height.
        methods: By method, its recipes, the more particular ones last.
    """

    augment: str = "none"
    padding: int | None = None
    methods: dict[str, tuple[Recipe, ...]] = field(default_factory=dict)


UNKNOWN = DatasetRecipe()

_DIGITS = (
    "tuned on validation images of digits, six candidates a method:"
    " benchmarks/results/tune_digits.json"
)

_CIFAR10 = (
    "tuned on validation images of CIFAR-10 with ResNet-20, three candidates a method, 2,000"
    " images, 10 epochs, one seed: benchmarks/results/tune_cifar10.json"
)

_CIFAR10_ROBUST = (
    "best mean of accuracy and of PGD-10 accuracy at 8/255 in a study with ResNet-20, 20,000 images"
    " of CIFAR-10, crop and flip, 12 epochs, five seeds: results/example_blocks/study.md"
)

_BLOCKS = {"view_epochs": 2, "view_block": 20}
"""Of that study."""

_CIFAR10_ACCURATE = (
    "equal to plain training or above, and near the best of two fixed budgets, in four settings of"
    " a study with ResNet-20, 1,000 and 10,000 images of CIFAR-10, five seeds:"
    " results/auto_epsilon/study.md, results/auto_epsilon_10000/study.md"
)

RECIPES: dict[str, DatasetRecipe] = {
    "digits": DatasetRecipe(
        methods={
            "dropout": (
                Recipe({"p": 0.3}, _DIGITS),
                Recipe({"p": 0.6}, _DIGITS, goal="accuracy"),
            ),
            "fgsm": (
                Recipe({"epsilon": 0.2}, _DIGITS),
                Recipe({"epsilon": 0.15}, _DIGITS, goal="accuracy"),
            ),
            # A budget by site did a little better and names one network's blocks; this fits all.
            "layerwise": (
                Recipe({"sites": ["input"], "epsilon": 0.3}, _DIGITS),
                Recipe({"epsilon": 0.2}, _DIGITS, when={"memory": "example"}),
                Recipe({"memory": "example", "epsilon": 0.2}, _DIGITS, goal="robustness"),
            ),
        },
    ),
    "cifar10": DatasetRecipe(
        augment="crop_flip",
        padding=4,
        methods={
            "dropout": (Recipe({"p": 0.2}, _CIFAR10),),
            "fgsm": (Recipe({"epsilon": "2/255"}, _CIFAR10),),
            "layerwise": (
                Recipe({"sites": ["input"], "epsilon": "8/255"}, _CIFAR10),
                Recipe(
                    {"epsilon": "8/255"},
                    _CIFAR10_ROBUST,
                    when={"memory": "example"},
                    data=_BLOCKS,
                ),
                Recipe(
                    {"memory": "example", "epsilon": "8/255"},
                    _CIFAR10_ROBUST,
                    goal="robustness",
                    data=_BLOCKS,
                ),
                Recipe(
                    {"memory": "slot", "sites": ["@hidden"], "epsilon": "auto"},
                    _CIFAR10_ACCURATE,
                    goal="accuracy",
                ),
            ),
        },
    ),
    "cifar100": DatasetRecipe(augment="crop_flip", padding=4),
    "svhn": DatasetRecipe(augment="crop", padding=4),
}
"""By the name that `advreg.data.identify` gives a data set."""


def find_recipe(
    dataset: str | None, method: str, chosen: dict[str, Any], goal: str | None = None
) -> Recipe | None:
    """The recipe for a method on a data set.

    Args:
        dataset: What `advreg.data.identify` returned.
        method: The method's name.
        chosen: The method's settings that the user gave. Settings are tuned together, so a
            recipe that one of them contradicts or repeats is not used in part.
        goal: One of `GOALS`; where no recipe is by it alone, as None: by both.

    Returns:
        The last recipe whose conditions the chosen settings fulfil; None where there is none.

    Raises:
        ConfigurationError: There is no such goal.
    """
    if goal is not None:
        choice("goal", goal, GOALS)
    fitting = [
        recipe
        for recipe in RECIPES.get(dataset or "", UNKNOWN).methods.get(method, ())
        if recipe.when.items() <= chosen.items() and not recipe.settings.keys() & chosen.keys()
    ]
    for wanted in (goal, None):
        meant = [recipe for recipe in fitting if recipe.goal == wanted]
        if meant:
            return meant[-1]
    return None


def dataset_of(data: DataSettings) -> str | None:
    """Which of the known data sets some data are; None for others.

    Raises:
        DataError: There are no such data.
    """
    return identify(data.name, Columns(data.image_column, data.label_column))


def with_recipes(
    configuration: Configuration,
    known: Callable[[DataSettings], str | None] = dataset_of,
    goal: str | None = None,
) -> Configuration:
    """Fills in what is usual for the data set where the user chose nothing.

    Args:
        configuration: As the user gave it.
        known: Says which data set some data are; as `dataset_of` does.
        goal: As of `find_recipe`.

    Returns:
        A configuration with an augmentation, and its method with the tuned settings, if any;
        `origins` says where they are from. One that has been filled in is returned as it is.

    Raises:
        ConfigurationError: There is no such goal.
        DataError: There are no such data.
    """
    data, method = configuration.data, configuration.method
    dataset = known(data)
    usual, origins = RECIPES.get(dataset or "", UNKNOWN), dict(configuration.origins)
    of = f"usual for {dataset}" if dataset in RECIPES else "unknown data are not augmented"
    if data.augment is None:
        data = replace(data, augment=usual.augment)
        origins["data.augment"] = of
    if data.padding is None and data.augment != "none" and usual.padding is not None:
        data = replace(data, padding=usual.padding)
        origins["data.padding"] = of
    recipe = find_recipe(dataset, method.name, method.settings, goal)
    if recipe is not None and recipe.suits(data, configuration.run.epochs):
        method = replace(method, settings={**recipe.settings, **method.settings})
        origins |= {f"method.{name}": recipe.origin for name in recipe.settings}
        data = replace(data, **recipe.data)
        origins |= {f"data.{name}": recipe.origin for name in recipe.data}
    return replace(configuration, data=data, method=method, origins=origins)
