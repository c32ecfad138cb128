"""What a study is: what is compared, on what, from which seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from advreg.checks import check_budget
from advreg.errors import ConfigurationError
from advreg.training.recipes import GOALS
from advreg.units import choice, count, number

BUDGETS = ("epochs", "passes", "seconds")
NAMED = ("data", "model", "method", "optimizer", "schedule")
"""Parts of a configuration with a name; another name takes the place of the whole part."""

NO_GROUP = "all"
"""The one group of a study without groups."""


@dataclass(frozen=True)
class Measuring:
    """How every run is measured on test images, by the weights of its last epoch.

    Args:
        images: So many test images, drawn class by class, the same for every run; None is all.
        attacked: So many of them for the attacks; None is as many.
        epsilons: Budgets of PGD, L-infinity, as written; 0 is the clean figure, always there.
        steps: Of PGD, each of 2.5 * epsilon / steps.
        batch_size: Images a pass.
        split: test, or validation for tuning.

    Raises:
        ConfigurationError: A setting cannot work.
    """

    images: int | None = None
    attacked: int | None = None
    epsilons: tuple[str, ...] = ("2/255", "8/255")
    steps: int = 10
    batch_size: int = 250
    split: str = "test"

    def __post_init__(self) -> None:
        for name in ("images", "attacked"):
            if getattr(self, name) is not None:
                count(f"evaluation.{name}", getattr(self, name))
        count("evaluation.steps", self.steps)
        count("evaluation.batch_size", self.batch_size)
        choice("evaluation.split", self.split, ("test", "validation"))
        if not isinstance(self.epsilons, (list, tuple)):
            raise ConfigurationError(
                f"evaluation.epsilons is {self.epsilons!r}; give a list such as [0, 2/255]."
            )
        for text in self.epsilons:
            check_budget(number(text, "evaluation.epsilons"), (0.0, 1.0))
        kept = [text for text in self.epsilons if number(text, "evaluation.epsilons") != 0]
        object.__setattr__(self, "epsilons", tuple(dict.fromkeys(map(str, kept))))


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        title: For people.
        question: What the study is to answer.
        remark: What a reader must know of how the runs were made, such as a busy machine's times.
        goal: accuracy or robustness: which figure comes first in words.
        baseline: The arm that the others are compared with.
        base: A run's configuration as in `config.yaml`, without out and seed.
        groups: For each group's name what it changes in the base; comparisons are made inside a
            group. The key `arms` holds the labels of its arms where it has not all of them.
        arms: For each label what the arm changes in its group.
        seeds: Of the runs, the same for every arm, so that differences are paired.
        redraw: Whether each seed also draws other training images (where the data are limited) and
            validation images, so that the intervals hold for other images too.
        budget: epochs, passes or seconds: what is equal over the arms of a group. The epochs of
            the group are the baseline's; see `advreg.study.budget`.
        evaluation: How runs are measured.
        pairs: Further comparisons, of an arm with another one than the baseline.
        time_steps: Whether each arm's step is timed against the baseline's before runs begin, on an
            idle machine; with a budget of seconds it always is.
        tune: What `advreg tune` tries: under `common` for every arm, under `arms` by label, each a
            mapping from a dotted setting to the values to try.
        tuned: What it found: for each group and arm dotted settings, laid over the rest.
        size: The size that was chosen, for people.
        text: What the file says, with the size merged.

    Raises:
        ConfigurationError: A part is missing or cannot work.
    """

    title: str
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    baseline: str
    groups: dict[str, dict[str, Any]] = field(default_factory=lambda: {NO_GROUP: {}})
    question: str = ""
    remark: str = ""
    goal: str = "accuracy"
    redraw: bool = False
    budget: str = "epochs"
    evaluation: Measuring = field(default_factory=Measuring)
    pairs: tuple[tuple[str, str], ...] = ()
    time_steps: bool = False
    tune: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    size: str | None = None
    text: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choice("goal", self.goal, GOALS)
        choice("budget", self.budget, BUDGETS)
        for name in ("redraw", "time_steps"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}; give true or false.")
        if not self.arms or not self.groups:
            raise ConfigurationError("The study has no arms; name at least one under arms.")
        if self.baseline not in self.arms:
            raise ConfigurationError(
                f"baseline is {self.baseline!r}; give one of {', '.join(self.arms)}."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(
                f"seeds is {list(self.seeds)}; give a number of seeds, or each seed once."
            )
        for seed in self.seeds:
            count("A seed", seed, 0)
        for pair in self.pairs:
            if len(set(pair)) != 2 or self.baseline in pair or not self.arms.keys() >= set(pair):
                raise ConfigurationError(
                    f"pairs has {list(pair)}; give two different ones of {', '.join(self.arms)},"
                    " without the baseline, which all are compared with anyway."
                )
        for group in self.groups:
            self.arms_of(group)
        for label, changes in self.arms.items():
            if "epochs" in changes:
                raise ConfigurationError(
                    f"The arm {label!r} sets epochs, which the budget decides; set them in base or"
                    " in a group."
                )

    def arms_of(self, group: str) -> list[str]:
        """The labels of a group's arms, the baseline first, the others in the file's order.

        Raises:
            ConfigurationError: It names an arm that the study does not have, or no baseline.
        """
        chosen = self.groups[group].get("arms", list(self.arms))
        unknown = [label for label in chosen if label not in self.arms]
        if unknown:
            raise ConfigurationError(
                f"The group {group!r} names the arm {unknown[0]!r}, which is not among"
                f" {', '.join(self.arms)}."
            )
        if self.baseline not in chosen:
            raise ConfigurationError(
                f"The group {group!r} lacks the baseline {self.baseline!r}; add it to its arms."
            )
        rest = [label for label in self.arms if label in chosen and label != self.baseline]
        return [self.baseline, *rest]

    def values(self, group: str, arm: str) -> dict[str, Any]:
        """A run's configuration in plain values, without out and seed."""
        changes = {key: value for key, value in self.groups[group].items() if key != "arms"}
        values = merged(merged(self.base, changes), self.arms[arm])
        return merged(values, nested(self.tuned.get(group, {}).get(arm, {})))


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One mapping laid over another, part by part; null takes a key out.

    A part with a name, such as a method, is replaced where the name is another one.
    """
    result = dict(below)
    for key, value in above.items():
        if value is None:
            result.pop(key, None)
            continue
        before: Any = result.get(key)
        if key in NAMED:
            before, value = _with_name(before), _with_name(value)
            if key != "data" and value.get("name", before.get("name")) != before.get("name"):
                before = {}
        both = isinstance(before, dict) and isinstance(value, dict)
        result[key] = merged(before, value) if both else value
    return result


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted names, such as `method.epsilon`, as a mapping of parts.

    Raises:
        ConfigurationError: A name is not text, or lies inside of a setting that has a value.
    """
    found: dict[str, Any] = {}
    for name in sorted(settings, key=str):  # a part's name before its settings
        if not isinstance(name, str):
            raise ConfigurationError(f"{name!r} names no setting; give one such as method.epsilon.")
        *parts, last = name.split(".")
        place = found
        for part in parts:
            below = place.get(part)
            if not isinstance(below, dict | str | None):
                raise ConfigurationError(
                    f"{name} lies inside of {part}, which is {below!r}; leave one of them out."
                )
            place[part] = {**_with_name(below)}
            place = place[part]
        place[last] = settings[name]
    return found


def _with_name(part: Any) -> dict[str, Any]:
    if part is None:
        return {}
    return part if isinstance(part, dict) else {"name": part}
