"""Equal tuning: successive halving on validation images, as many runs for every arm."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from advreg.errors import ConfigurationError
from advreg.files import replace_file
from advreg.study.budget import epochs_of
from advreg.study.collecting import TUNING
from advreg.study.compare import run_study
from advreg.study.definition import Measuring, Study
from advreg.study.execution import FAILURE, ROW
from advreg.study.files import read_json, write_json
from advreg.study.runs import StudyRun, build_cell, build_runs, cells
from advreg.training.recipes import dataset_of

FIRST_SEED = 1000
"""Of tuning; no study reports on seeds that anything was tuned on."""

TUNED = "tuned.yaml"


@dataclass(frozen=True)
class Candidate:
    """What is tried for an arm.

    Attributes:
        group: Its group.
        arm: Its label.
        settings: By dotted names.
        seed: Of its runs; the same settings may be tried from several seeds.
    """

    group: str
    arm: str
    settings: dict[str, Any]
    seed: int


def rounds_of(budget: int) -> list[int]:
    """How many candidates each round of halving has, within a number of runs for each arm.

    The last round has two at the study's full epochs, the one before it four at half of them.

    Raises:
        ConfigurationError: There would be fewer than two runs.
    """
    if budget < 2:
        raise ConfigurationError(f"budget is {budget}; give at least 2 runs for each arm.")
    first = 2
    while 2 * (2 * first) - 2 <= budget:
        first *= 2
    return [first >> step for step in range(first.bit_length() - 1)]


def candidates(study: Study, group: str, arm: str, number: int) -> list[Candidate]:
    """So many candidates of an arm: drawn from its grid, or all of it from several seeds.

    Those come first whose values have been drawn least: of the few, none repeats a value while
    another has not been tried.

    Args:
        study: The study, whose `tune` says what to try.
        group: The arm's group.
        arm: Its label.
        number: How many, the same for every arm.

    Raises:
        ConfigurationError: `tune` is not what it should be.
    """
    values = {**study.tune.get("common", {}), **study.tune.get("arms", {}).get(arm, {})}
    for name, choices in values.items():
        if not isinstance(choices, list) or not choices:
            raise ConfigurationError(f"tune gives {name} {choices!r}; give a list of values.")
    grid = [
        dict(zip(values, choice, strict=True)) for choice in itertools.product(*values.values())
    ]
    random.Random(arm).shuffle(grid)
    drawn: list[dict[str, Any]] = []
    uses: Counter[tuple[str, str]] = Counter()
    while grid and len(drawn) < number:
        least = min(range(len(grid)), key=lambda place: sum(uses[v] for v in _values(grid[place])))
        drawn.append(grid.pop(least))
        uses.update(_values(drawn[-1]))
    return [
        Candidate(group, arm, drawn[place % len(drawn)], FIRST_SEED + place // len(drawn))
        for place in range(number)
    ]


def _values(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, repr(value)) for name, value in settings.items()]


def tune(
    study: Study,
    out: Path,
    budget: int,
    places: Mapping[str, str] | None = None,
    until: float = math.inf,
    **running: Any,
) -> tuple[Study, list[dict[str, Any]]]:
    """Finds each arm's settings in each group, with the same number of runs for every arm.

    Candidates are compared on validation images: by accuracy, or where the goal is robustness by
    the mean of accuracy and of accuracy under PGD at the study's first budget. What was tried is
    in `tuning.json`, the study with what was found in `tuned.yaml`.

    Args:
        study: The study.
        out: Its folder.
        budget: Runs for each arm, at most.
        places: Where the data are that the study calls by these names.
        until: When, by `time.monotonic`, to choose by what is finished: those candidates count
            that every arm has finished as many of; without any, settings stay as they are.
        **running: Of `run_study`.

    Returns:
        The study with what was found, and the record.

    Raises:
        ConfigurationError: The study has nothing to try, or the budget is too small.
    """
    unknown = set(study.tune.get("arms", {})) - set(study.arms)
    if not study.tune or unknown or set(study.tune) - {"common", "arms"}:
        raise ConfigurationError(
            f"tune is {study.tune!r}; give settings to try under common, or under arms by label."
        )
    counts = rounds_of(budget)
    left = {
        (group, arm): candidates(study, group, arm, counts[0])
        for group in study.groups
        for arm in study.arms_of(group)
    }
    whole = cells(study, places)
    epochs = {
        (cell.group, cell.arm): number
        for cell, number in zip(whole, epochs_of(study, whole, out), strict=True)
    }
    record: list[dict[str, Any]] = []
    for place, _ in enumerate(counts):
        share = 2 ** (len(counts) - 1 - place)
        tried = [one for several in zip(*left.values(), strict=True) for one in several]
        shortened = {key: max(1, round(number / share)) for key, number in epochs.items()}
        runs = _runs(study, tried, shortened, places, out)
        run_study(runs, out, until=until, **running)
        late = time.monotonic() > until
        scored = [
            (one, run, score)
            for one, run in zip(tried, runs, strict=True)
            if (score := _score(run, out, study, late)) is not None
        ]
        if len(scored) < len(tried):
            scored = _shared(scored, len(left))
        if scored:
            tried, runs, scores = (list(part) for part in zip(*scored, strict=True))
            left = _better_half(tried, scores)
            record += _lines(tried, runs, scores, left)
            write_json(out / TUNING, record)
        if late:
            break
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (group, arm), (best, *_) in left.items():
        if record:
            found.setdefault(group, {})[arm] = best.settings
    text = {**study.text, "tuned": found}
    written = yaml.safe_dump(text, sort_keys=False)
    replace_file(out / TUNED, lambda path: path.write_text(written, encoding="utf-8"))
    return replace(study, tuned=found, text=text), record


def _runs(
    study: Study,
    tried: Sequence[Candidate],
    epochs: Mapping[tuple[str, str], int],
    places: Mapping[str, str] | None,
    out: Path,
) -> list[StudyRun]:
    known = cache(dataset_of)
    wanted = []
    for one in tried:
        chosen = replace(study, tuned={one.group: {one.arm: one.settings}})
        cell = build_cell(chosen, one.group, one.arm, places, known)
        wanted.append((cell, one.seed, epochs[one.group, one.arm]))
    attacked = study.evaluation.epsilons[:1] if study.goal == "robustness" else ()
    evaluation = Measuring(epsilons=attacked, steps=study.evaluation.steps, split="validation")
    return build_runs(wanted, evaluation, study.redraw, out)


def _shared(
    scored: Sequence[tuple[Candidate, StudyRun, float]], arms: int
) -> list[tuple[Candidate, StudyRun, float]]:
    """The finished candidates, of each arm only as many as every arm has, in their order."""
    several: dict[tuple[str, str], list[tuple[Candidate, StudyRun, float]]] = {}
    for one in scored:
        several.setdefault((one[0].group, one[0].arm), []).append(one)
    fewest = min(map(len, several.values())) if len(several) == arms else 0
    return [one for row in zip(*several.values(), strict=False) for one in row][: fewest * arms]


def _score(run: StudyRun, out: Path, study: Study, late: bool = False) -> float | None:
    """In [0, 1]; of a run that failed, as by diverging, 0; None if it came too late.

    Raises:
        ConfigurationError: It was not run, since another process has it.
    """
    row = read_json(run.folder(out) / ROW)
    if row is None:
        if read_json(run.folder(out) / FAILURE) is None:
            if late:
                return None
            raise ConfigurationError(
                f"{run.name} is another process's; tune again when that has ended."
            )
        return 0.0
    figures = [row["clean"], *(row["robust"].values() if study.goal == "robustness" else ())]
    return float(sum(figures) / len(figures))


def _better_half(
    tried: Sequence[Candidate], scores: Sequence[float]
) -> dict[tuple[str, str], list[Candidate]]:
    """Of each arm the better half of its candidates, the best first; ties keep their order."""
    arms: dict[tuple[str, str], list[tuple[float, Candidate]]] = {}
    for one, score in zip(tried, scores, strict=True):
        arms.setdefault((one.group, one.arm), []).append((score, one))
    return {
        key: [one for _, one in sorted(several, key=lambda pair: -pair[0])][
            : (len(several) + 1) // 2
        ]
        for key, several in arms.items()
    }


def _lines(
    tried: Sequence[Candidate],
    runs: Sequence[StudyRun],
    scores: Sequence[float],
    left: Mapping[tuple[str, str], Sequence[Candidate]],
) -> list[dict[str, Any]]:
    return [
        {
            "group": one.group,
            "arm": one.arm,
            "settings": one.settings,
            "seed": one.seed,
            "epochs": run.configuration.run.epochs,
            "accuracy": score,
            "kept": any(one is kept for kept in left[one.group, one.arm]),
        }
        for one, run, score in zip(tried, runs, scores, strict=True)
    ]
