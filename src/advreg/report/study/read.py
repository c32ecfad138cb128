"""Reading a study's results, and the means and intervals of its rows."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from scipy import stats

from advreg.report.results import read_kind

CLEAN = "clean"
NEEDED = ("title", "command", "study", "baseline", "arms", "seeds", "epsilons", "rows")

Results = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Mean:
    """A figure of one arm over its seeds.

    Attributes:
        mean: In the figure's unit.
        low: Lower end of the 95 % t interval; None from one seed.
        high: Its upper end.
        count: Seeds that have the figure.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


def read_study(path: str | os.PathLike[str]) -> Results:
    """Reads what `advreg compare` has collected.

    Args:
        path: The results file.

    Raises:
        RunError: It is missing, damaged, or of another kind.
    """
    results = read_kind(path, "advreg study", NEEDED, "advreg compare")
    optional: Results = {"question": "", "remark": "", "goal": "accuracy", "size": None}
    optional |= {"groups": [], "failures": [], "missing": [], "tuning": [], "comparisons": []}
    found = {**optional, "environment": {}, "seconds": None, "steps": {}, **results}
    baseline = {"to": found["baseline"]}
    return {**found, "comparisons": [baseline | one for one in found["comparisons"]]}


def groups_of(results: Results) -> list[str]:
    """The groups, in order; those of the rows where none are named."""
    parts = (*results["rows"], *results["failures"], *results["missing"])
    return list(results["groups"]) or list(dict.fromkeys(part["group"] for part in parts))


def labels_of(results: Results) -> list[str]:
    """The arms, the baseline first."""
    found = [arm["label"] for arm in results["arms"]]
    return sorted(found, key=lambda label: label != results["baseline"])


def rows_of(results: Results, group: str, arm: str) -> list[Row]:
    """The rows of one arm of one group, by seed."""
    found = [row for row in results["rows"] if (row["group"], row["arm"]) == (group, arm)]
    return sorted(found, key=lambda row: row["seed"])


def figure_of(row: Row, figure: str) -> float | None:
    """A row's `clean`, its accuracy at an epsilon, or another number by its name; None for none."""
    value = row.get("robust", {}).get(figure, row.get(figure))
    plain = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if plain else None


def mean_of(values: Sequence[float | None]) -> Mean | None:
    """Over the values that are there; None where there are none."""
    kept = [value for value in values if value is not None]
    if not kept:
        return None
    mean = statistics.fmean(kept)
    if len(kept) == 1:
        return Mean(mean, None, None, 1)
    error = statistics.stdev(kept) / math.sqrt(len(kept))
    half = float(stats.t.ppf(0.975, len(kept) - 1)) * error
    return Mean(mean, mean - half, mean + half, len(kept))


def summary(results: Results, group: str, arm: str, figure: str) -> Mean | None:
    """One figure of one arm over its seeds."""
    return mean_of([figure_of(row, figure) for row in rows_of(results, group, arm)])


def present(results: Results, group: str, figure: str) -> list[tuple[str, Mean]]:
    """The arms of a group that have a figure, with its mean."""
    found = [(arm, summary(results, group, arm, figure)) for arm in labels_of(results)]
    return [(arm, mean) for arm, mean in found if mean is not None]


def learnt_little(row: Row) -> bool:
    """Whether a network classifies hardly more clean images correctly than one class for all would.

    Less than twice as many, and less than a tenth of what that leaves: a few percent of a hundred
    classes are much, and so are six in ten of two. Older rows have no `chance`, and pass.
    """
    chance = row.get("chance", 0.0)
    return bool(row["clean"] < min(2 * chance, chance + 0.1 * (1 - chance)))


def comparison(results: Results, group: str, arm: str, figure: str) -> dict[str, Any] | None:
    """What an arm's figure was compared to the baseline's with, or None."""
    wanted = (group, arm, results["baseline"], figure)
    for one in results["comparisons"]:
        if (one["group"], one["arm"], one["to"], one["figure"]) == wanted:
            return dict(one)
    return None


def goal_figure(results: Results) -> str:
    """The figure that the study's goal is about.

    For robustness that is the largest epsilon at which some arm has a twentieth of the images
    right, since at larger ones there is nothing to be compared; else the smallest one.
    """
    if results["goal"] != "robustness" or not results["epsilons"]:
        return CLEAN
    for epsilon in reversed(results["epsilons"]):
        means = [
            summary(results, group, arm, epsilon)
            for group in groups_of(results)
            for arm in labels_of(results)
        ]
        if any(mean is not None and mean.mean >= 0.05 for mean in means):
            return str(epsilon)
    return str(results["epsilons"][0])


def by_epoch(rows: Sequence[Row], name: str, site: str | None = None) -> list[tuple[int, Mean]]:
    """Epoch, from 1, and a figure of the training or of a site, where some seed has one."""
    curves = []
    for row in rows:
        lines = row.get("epochs") or []
        if site is not None:
            lines = [line.get("sites", {}).get(site, {}) for line in lines]
        curves.append([figure_of(line, name) for line in lines])
    found = enumerate((mean_of(values) for values in zip_longest(*curves)), 1)
    return [(epoch, mean) for epoch, mean in found if mean is not None]


def sites_of(rows: Sequence[Row]) -> list[str]:
    """The sites that the rows' probes saw, in the order of the forward pass."""
    lines = (line for row in rows for line in row.get("epochs") or [])
    return list(dict.fromkeys(site for line in lines for site in line.get("sites", {})))
