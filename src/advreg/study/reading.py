"""A study from its file, every mistake found before the first run."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from advreg.errors import ConfigurationError
from advreg.study.definition import NO_GROUP, Measuring, Study, merged
from advreg.training.configuration import Configuration, read_yaml
from advreg.units import count

OWN = ("out", "seed", "device", "threads")
"""Settings of a run that the study or the machine decides."""

MOST_SEEDS = 10_000
"""Where a number is given; more is a slip of the hand."""


def read_study(path: str | os.PathLike[str], size: str | None = None) -> Study:
    """Reads a study's file.

    Args:
        path: A YAML file.
        size: One of its `sizes`, merged over the rest; None takes the file as it is.

    Raises:
        ConfigurationError: The file cannot be read, or what it says cannot work.
    """
    values = read_yaml(path)
    sizes = _mapping("sizes", values.pop("sizes", None) or {})
    if size is not None:
        if size not in sizes:
            raise ConfigurationError(
                f"{path} has no size {size!r}; take one of {', '.join(sizes) or 'none'}."
            )
        values = merged(values, _mapping(f"sizes.{size}", sizes[size]))
    return study_from(values, size, Path(path).stem)


def study_from(values: dict[str, Any], size: str | None = None, title: str = "Study") -> Study:
    """A study from plain values.

    Args:
        values: As in a file, without `sizes`.
        size: For people.
        title: Where the values hold none.

    Raises:
        ConfigurationError: A key is unknown, or a value cannot work.
    """
    known = {item.name for item in fields(Study)} - {"size", "text"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigurationError(
            f"A study has no setting {', '.join(map(str, unknown))}; it has"
            f" {', '.join(sorted(known))} and sizes."
        )
    arms = _mappings("arms", values.get("arms"))
    groups = _mappings("groups", values.get("groups"))
    tune = _mappings("tune", values.get("tune"))
    if "arms" in tune:
        tune["arms"] = _mappings("arms", tune["arms"])
    tuned = _mappings("tuned", values.get("tuned"))
    evaluation = _mapping("evaluation", values.get("evaluation"))
    allowed = {item.name for item in fields(Measuring)}
    if wrong := sorted(set(evaluation) - allowed):
        raise ConfigurationError(
            f"evaluation has no setting {', '.join(wrong)}; it has {', '.join(sorted(allowed))}."
        )
    seeds = values.get("seeds", 5)
    if isinstance(seeds, int):
        count("seeds", seeds)
        if seeds > MOST_SEEDS:
            raise ConfigurationError(f"seeds is {seeds}; give at most {MOST_SEEDS:,}.")
        seeds = range(seeds)
    elif not isinstance(seeds, (list, tuple)):
        raise ConfigurationError(f"seeds is {seeds!r}; give their number or a list of them.")
    base = _mapping("base", values.get("base"))
    for where, part in (("base", base), *groups.items(), *arms.items()):
        if own := [name for name in OWN if name in part]:
            raise ConfigurationError(
                f"{where} sets {own[0]}, which the study decides itself; leave it out."
            )
    study = Study(
        title=str(values.get("title", title)),
        base=base,
        arms=arms,
        seeds=tuple(seeds),
        baseline=str(values.get("baseline", next(iter(arms), ""))),
        groups=groups or {NO_GROUP: {}},
        question=str(values.get("question", "")),
        remark=str(values.get("remark", "")),
        goal=values.get("goal", "accuracy"),
        redraw=values.get("redraw", False),
        budget=values.get("budget", "epochs"),
        evaluation=Measuring(**evaluation),
        pairs=_pairs(values.get("pairs") or []),
        time_steps=values.get("time_steps", False),
        tune=tune,
        tuned={group: _mappings(group, settings) for group, settings in tuned.items()},
        size=size,
        text=values,
    )
    for group in study.groups:
        for arm in study.arms_of(group):
            _check(study, group, arm)
    return study


def _check(study: Study, group: str, arm: str) -> None:
    """Finds a mistake in a run's settings before the first one starts."""
    try:
        Configuration.from_dict({**study.values(group, arm), "out": "run"})
    except ConfigurationError as error:
        where = f"{arm!r}" if group == NO_GROUP else f"{arm!r} in {group!r}"
        raise ConfigurationError(f"The arm {where} cannot work: {error}") from None


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in value
    ):
        raise ConfigurationError(f"pairs is {value!r}; give a list of [arm, other arm].")
    return tuple((str(arm), str(other)) for arm, other in value)


def _mapping(name: Any, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{name} is {value!r}; give one 'key: value' a line.")
    return value


def _mappings(name: str, value: Any) -> dict[str, dict[str, Any]]:
    return {str(key): _mapping(key, part) for key, part in _mapping(name, value).items()}
