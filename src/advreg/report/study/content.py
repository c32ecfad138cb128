"""The tables of a study's page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from advreg.report.study.read import (
    CLEAN,
    Mean,
    Results,
    by_epoch,
    comparison,
    figure_of,
    groups_of,
    labels_of,
    mean_of,
    rows_of,
    sites_of,
    summary,
)

NONE = "–"  # noqa: RUF001
MARKS = {"better": "▲", "worse": "▼", "equal": "=", "unclear": "?", "too few seeds": "…"}


@dataclass(frozen=True)
class Cell:
    """A figure of the table.

    Attributes:
        figure: The mean.
        interval: Its own 95 % interval, or empty.
        difference: To the baseline, with its interval, or empty.
        verdict: A key of `MARKS`, or empty.
    """

    figure: str
    interval: str = ""
    difference: str = ""
    verdict: str = ""


def heading(results: Results, figure: str) -> str:
    """Of a column of accuracies."""
    return "Clean" if figure == CLEAN else f"PGD {figure}"


def figures(results: Results) -> list[str]:
    """The accuracies, clean first."""
    return [CLEAN, *results["epsilons"]]


def headings(results: Results) -> list[str]:
    """Of the table's columns after the arm's."""
    accuracies = [heading(results, figure) for figure in figures(results)]
    step = ["Step"] if results["steps"] else []
    return [*accuracies, "NLL", "ECE", "Passes", *step, "Time", "Seeds"]


def table(results: Results, group: str) -> list[tuple[str, list[Cell]]]:
    """A row for each arm that the group has, also for one whose runs failed or are missing."""
    total = len(results["seeds"])
    lost = [*results.get("failures", ()), *results.get("missing", ())]
    lacking = {one["arm"] for one in lost if one["group"] == group}
    rows = []
    for arm in labels_of(results):
        if not (rows_of(results, group, arm) or arm in lacking):
            continue
        cells = [_accuracy(results, group, arm, figure) for figure in figures(results)]
        cells.append(_plain(summary(results, group, arm, "nll"), 1, 3))
        cells.append(_plain(summary(results, group, arm, "ece"), 100, 1))
        passes, seconds = (summary(results, group, arm, name) for name in ("passes", "seconds"))
        cells.append(Cell(f"{passes.mean:,.0f}" if passes else NONE))
        if results["steps"]:
            cells.append(_step(results["steps"].get(f"{group}: {arm}")))
        cells.append(Cell(duration(seconds.mean) if seconds else NONE))
        runs = len(rows_of(results, group, arm))
        cells.append(Cell(str(runs) if runs == total else f"{runs} of {total}"))
        rows.append((arm, cells))
    return rows


def _accuracy(results: Results, group: str, arm: str, figure: str) -> Cell:
    mean = summary(results, group, arm, figure)
    if mean is None:
        return Cell(NONE)
    found = comparison(results, group, arm, figure)
    own = _plain(mean, 100, 1)
    if found is None or found["mean"] is None:
        return own
    return Cell(own.figure, own.interval, points(found), found["verdict"])


def _plain(mean: Mean | None, factor: float, digits: int) -> Cell:
    if mean is None:
        return Cell(NONE)
    text = f"{factor * mean.mean:.{digits}f}"
    if mean.low is None or mean.high is None:
        return Cell(text)
    return Cell(text, f"{factor * mean.low:.{digits}f} to {factor * mean.high:.{digits}f}")


def _step(cost: dict[str, float] | None) -> Cell:
    """A step's time over the baseline's, with the quartiles over rounds."""
    if cost is None:
        return Cell(NONE)
    spread = "{lower:.2f} to {upper:.2f}".format(**cost)
    return Cell(f"{cost['median']:.2f}", spread if cost["lower"] < cost["upper"] else "")


def points(found: dict[str, Any]) -> str:
    """A difference in points with its interval, as far as it has one."""
    text = f"{100 * found['mean']:+.1f}"
    if found["low"] is None:
        return text
    return f"{text} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def duration(seconds: float) -> str:
    """A time as people write it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def compared(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of all comparisons."""
    head = ["Training", "Figure", "Pairs", "Difference", "95 % (t)", "95 % (bootstrap)"]
    head += ["p", "p (Holm)", "Seeds for half a point", "Verdict"]
    several = len(groups_of(results)) > 1
    to = results["baseline"]
    further = any(one["to"] != to for one in results["comparisons"])
    rows = []
    for one in results["comparisons"]:
        rows.append(
            [
                *([one["group"]] if several else []),
                one["arm"],
                *([one["to"]] if further else []),
                heading(results, one["figure"]),
                str(one["count"]),
                NONE if one["mean"] is None else f"{100 * one['mean']:+.2f}",
                _range(one["low"], one["high"]),
                _range(one["bootstrap_low"], one["bootstrap_high"]),
                _p(one["p"]),
                _p(one["p_holm"]),
                f"{one['seeds_for_half_point']:,}" if one["seeds_for_half_point"] else NONE,
                one["verdict"],
            ]
        )
    return ["Group"] * several + head[:1] + ["Compared with"] * further + head[1:], rows


def _range(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def site_table(results: Results, group: str) -> list[list[str]]:
    """Arm, site, relative size, cosine and rise of the last epoch, over the seeds."""
    rows = []
    for arm in labels_of(results):
        mine = rows_of(results, group, arm)
        for site in sites_of(mine):
            last = [
                curve[-1][1] if curve else None
                for curve in (by_epoch(mine, name, site) for name in ("relative", "cosine", "rise"))
            ]
            factors = ((100, 2), (1, 3), (1, 4))
            texts = [
                _with_interval(_plain(one, *factor))
                for one, factor in zip(last, factors, strict=True)
            ]
            rows.append([arm, site, *texts])
    return rows


def _with_interval(cell: Cell) -> str:
    return f"{cell.figure} ({cell.interval})" if cell.interval else cell.figure


def age_table(results: Results, group: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the cosines by the age of an example's memory, in epochs.

    In the epoch at half of the training, where the learning rate is high, and in the last one.
    """
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for arm in labels_of(results):
        for row in rows_of(results, group, arm):
            epochs = row.get("epochs") or []
            for place in sorted({(len(epochs) - 1) // 2, len(epochs) - 1} if epochs else ()):
                for site, figures in epochs[place].get("sites", {}).items():
                    for age, cosine in figures.get("by_age", {}).items():
                        key = (arm, site, str(place + 1))
                        found.setdefault(key, {}).setdefault(age, []).append(cosine)
    ages = sorted({age for one in found.values() for age in one}, key=float)
    rows = [
        [*key, *(_with_interval(_plain(mean_of(one.get(age, [])), 1, 3)) for age in ages)]
        for key, one in found.items()
    ]
    return ["Training", "Site", "Epoch", *(f"{age} epochs" for age in ages)], rows


def shares(results: Results, group: str) -> list[list[str]]:
    """Arm and first-order share of the training loss in the last epoch."""
    rows = []
    for arm in labels_of(results):
        curve = by_epoch(rows_of(results, group, arm), "first_order_share")
        if curve:
            rows.append([arm, f"{_with_interval(_plain(curve[-1][1], 100, 1))} %"])
    return rows


def evidence_table(results: Results, group: str) -> list[list[str]]:
    """Arm, claim, how many runs bear it out, and the first run's figures in words."""
    rows = []
    for arm in labels_of(results):
        pieces = [one for row in rows_of(results, group, arm) for one in row.get("evidence") or []]
        for name in dict.fromkeys(one["name"] for one in pieces):
            mine = [one for one in pieces if one["name"] == name]
            held = sum(one["verdict"] == "holds" for one in mine)
            rows.append([arm, name, f"{held} of {len(mine)}", mine[0]["sentence"]])
    return rows


def absent(results: Results, name: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the failed or of the missing runs."""
    fields = {"arm": "Training", "seed": "Seed"}
    if len(groups_of(results)) > 1:
        fields["group"] = "Group"
    if name == "failures":
        fields["reason"] = "Why it failed"
    return list(fields.values()), [[str(one[key]) for key in fields] for one in results[name]]


def tuning_table(results: Results) -> list[list[str]]:
    """What tuning tried: arm, group, settings, epochs, validation accuracy, kept or not."""
    rows = []
    for one in results["tuning"]:
        accuracy = figure_of(one, "accuracy")
        rows.append(
            [
                one["arm"],
                str(one.get("group") or ""),
                ", ".join(f"{name}={value}" for name, value in flat(one["settings"])),
                str(one.get("epochs", NONE)),
                NONE if accuracy is None else f"{100 * accuracy:.1f}",
                "kept" if one.get("kept") else "",
            ]
        )
    return rows


def configurations(results: Results) -> list[list[str]]:
    """Each arm's label, and its method with its settings."""
    return [[arm["label"], arm_settings(arm)] for arm in results["arms"]]


def study_text(results: Results) -> str:
    """The study as YAML."""
    study = results["study"]
    if isinstance(study, str):
        return study
    return yaml.safe_dump(study, sort_keys=False, allow_unicode=True, width=88)


def provenance(results: Results) -> list[tuple[str, str]]:
    """Versions, processor, commit and time."""
    found = flat(results["environment"])
    if results["seconds"] is not None:
        found.append(("time in all", duration(results["seconds"])))
    return found


def arm_settings(arm: dict[str, Any]) -> str:
    """An arm's settings as `name=value`, as one would give them."""
    given = ", ".join(f"{name}={value!r}" for name, value in arm["settings"].items())
    return f"{arm['method']}({given})"


def flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and their values."""
    pairs: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", str(value)))
    return pairs
