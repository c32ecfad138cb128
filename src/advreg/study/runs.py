"""The runs of a study, each with an identity made from what is in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from advreg.errors import ConfigurationError
from advreg.study.definition import NO_GROUP, Measuring, Study
from advreg.study.fingerprints import Fingerprints
from advreg.training.builders import spelt_out
from advreg.training.configuration import Configuration
from advreg.training.identity import MOVABLE, settings_of_run
from advreg.training.recipes import dataset_of, with_recipes
from advreg.training.settings import DataSettings, MethodSettings, RunSettings

UNNAMED = "run"
"""Stands for the folder of a run that has none yet."""

FORMAT = 1
"""Of identities; to be raised when a default, or what a setting means, is changed."""

_ABSENT = object()


@dataclass(frozen=True)
class Cell:
    """One arm in one group: what its runs share.

    Attributes:
        group: Its name.
        arm: Its label.
        configuration: Resolved; of the first seed, and of a folder that is to be named.
    """

    group: str
    arm: str
    configuration: Configuration


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        index: Its place in the study's order, from 0.
        id: Sixteen digits of the SHA-256 of its content: the resolved configuration without
            folder, device and threads, how it is measured, and its data. Labels play no part, so
            that a run serves every study that has it.
        group: Its group's name.
        arm: Its arm's label.
        seed: Of its randomness.
        configuration: Resolved; the folder is still to be named.
        evaluation: How it is measured.
    """

    index: int
    id: str
    group: str
    arm: str
    seed: int
    configuration: Configuration
    evaluation: Measuring

    @property
    def name(self) -> str:
        """For people."""
        name = f"{self.arm}, seed {self.seed}"
        return name if self.group == NO_GROUP else f"{self.group}: {name}"

    def folder(self, out: Path) -> Path:
        """What is kept of it in a study's folder."""
        return out / "runs" / self.id


def cells(study: Study, places: Mapping[str, str] | None = None) -> list[Cell]:
    """Every arm of every group with its settings spelt out, the epochs those of its group.

    Args:
        study: The study.
        places: Where the data are that the study calls by these names.

    Raises:
        ConfigurationError: A setting cannot work; the message names the arm.
        DataError: There are no such data.
    """
    known = cache(dataset_of)
    return [
        build_cell(study, group, arm, places, known)
        for group in study.groups
        for arm in study.arms_of(group)
    ]


def build_cell(
    study: Study,
    group: str,
    arm: str,
    places: Mapping[str, str] | None = None,
    known: Callable[[DataSettings], str | None] = dataset_of,
) -> Cell:
    """One arm in one group; as `cells`.

    Args:
        study: The study.
        group: One of its groups.
        arm: One of the group's arms.
        places: As of `cells`.
        known: Says which data set some data are.
    """
    values = {"tensorboard": False, "monitor": False, **study.values(group, arm)}
    try:
        given = Configuration.from_dict({**values, "out": UNNAMED, "seed": study.seeds[0]})
        name = (places or {}).get(given.data.name, given.data.name)
        given = replace(given, data=replace(given.data, name=name))
        resolved = spelt_out(with_recipes(given, known))
    except ConfigurationError as error:
        raise ConfigurationError(f"The arm {arm!r} cannot work: {error}") from None
    return Cell(group, arm, replace(resolved, origins={}))


def plan_runs(
    study: Study, found: Sequence[Cell], epochs: Sequence[int], out: Path | None = None
) -> list[StudyRun]:
    """Every run, seed by seed, so that a study that is stopped early still has pairs.

    Args:
        study: The study.
        found: Its cells.
        epochs: Of each cell.
        out: The study's folder, where what the data are is remembered.
    """
    wanted = [
        (cell, seed, count)
        for seed in study.seeds
        for cell, count in zip(found, epochs, strict=True)
    ]
    return build_runs(wanted, study.evaluation, study.redraw, out)


def build_runs(
    wanted: Sequence[tuple[Cell, int, int]],
    evaluation: Measuring,
    redraw: bool,
    out: Path | None = None,
) -> list[StudyRun]:
    """Runs with their identities.

    Args:
        wanted: For each run its cell, seed and epochs.
        evaluation: How they are measured.
        redraw: As of `Study`.
        out: The study's folder, where what the data are is remembered.
    """
    fingerprint = Fingerprints(out)
    runs: list[StudyRun] = []
    for cell, seed, epochs in wanted:
        run = replace(cell.configuration.run, seed=seed, epochs=epochs)
        data = cell.configuration.data
        data = replace(data, seed=seed) if redraw else data
        configuration = replace(cell.configuration, run=run, data=data)
        name = identity(configuration, evaluation, fingerprint(data))
        runs.append(
            StudyRun(len(runs), name, cell.group, cell.arm, seed, configuration, evaluation)
        )
    return runs


def identity(configuration: Configuration, evaluation: Measuring, data: Mapping[str, str]) -> str:
    """Which run it is, by its content.

    Args:
        configuration: Resolved.
        evaluation: How it is measured.
        data: What `data_fingerprint` returned.
    """
    settings, usual = settings_of_run(configuration), _defaults(configuration.method.name)
    content: dict[str, Any] = {
        "format": FORMAT,
        # Defaults are left out, so that a setting that a later version adds changes nothing.
        "settings": {
            name: value
            for name, value in settings.items()
            if name not in MOVABLE and (name == "method.name" or value != usual.get(name, _ABSENT))
        },
        "evaluation": {
            name: value
            for name, value in asdict(evaluation).items()
            if value != getattr(Measuring(), name)
        },
        "data": dict(data),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _defaults(method: str) -> dict[str, Any]:
    """A run's settings where nothing is chosen but the method."""
    plain = Configuration(RunSettings(out=UNNAMED), method=MethodSettings(method))
    try:
        return settings_of_run(spelt_out(plain))
    except ConfigurationError:  # it has settings without defaults
        return settings_of_run(Configuration(RunSettings(out=UNNAMED)))
