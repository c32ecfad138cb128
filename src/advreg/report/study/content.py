"""What a study's page says: its sentences and its tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from advreg.report.content import NONE, arm_settings, flat
from advreg.report.study.read import (
    CLEAN,
    Mean,
    Results,
    by_epoch,
    comparison,
    figure_of,
    goal_figure,
    groups_of,
    labels_of,
    mean_of,
    rows_of,
    sites_of,
    summary,
)

MARKS = {"better": "▲", "worse": "▼", "equal": "=", "unclear": "?", "too few seeds": "…"}
NAMED = 3
"""A sentence names so many arms of a kind at most."""


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


def where(figure: str) -> str:
    """Of an accuracy, in a sentence."""
    return "on clean images" if figure == CLEAN else f"under attack at {figure}"


def figures(results: Results) -> list[str]:
    """The accuracies, clean first."""
    return [CLEAN, *results["epsilons"]]


def headings(results: Results) -> list[str]:
    """Of the table's columns after the arm's."""
    accuracies = [heading(results, figure) for figure in figures(results)]
    return [*accuracies, "NLL", "ECE", "Passes", "Time", "Seeds"]


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


def sentences(results: Results) -> list[str]:
    """What came out, in three sentences, whichever way it fell."""
    goal = goal_figure(results)
    other = CLEAN if goal != CLEAN else goal_figure({**results, "goal": "robustness"})
    said = [_outcome(results, goal)]
    if other != goal:
        said.append(_outcome(results, other))
    return [*said, _certainty(results)]


def _outcome(results: Results, figure: str) -> str:
    """One figure's comparisons, counted by verdict and named."""
    found = [one for one in results["comparisons"] if one["figure"] == figure and one["count"]]
    place = where(figure)
    if not found:
        return (
            f"{_upper(place)} nothing can be compared to {results['baseline']}: there are no two"
            " runs of one seed."
        )
    judged = [one for one in found if one["verdict"] != "too few seeds"]
    if not judged:
        most = max(found, key=lambda one: abs(one["mean"]))
        return (
            f"{_upper(place)} there are too few seeds for a verdict; the largest difference to"
            f" {results['baseline']} that was seen is {_named(results, most)}."
        )
    parts = []
    for verdict, words in (
        ("better", "better"),
        ("worse", "worse"),
        ("equal", "equal to within half a point"),
        ("unclear", "unclear"),
        ("too few seeds", "too few seeds for a verdict"),
    ):
        mine = [one for one in found if one["verdict"] == verdict]
        if mine:
            one, several = ("has", "have") if verdict == "too few seeds" else ("is", "are")
            verb = one if len(mine) == 1 else several
            parts.append(f"{len(mine)} {verb} {words} ({_names(results, mine)})")
        elif verdict == "better":
            parts.append("none is better")
    total = _count(len(found), "comparison")
    return f"{_upper(place)}, of {total} with {results['baseline']} {_joined(parts)}."


def _names(results: Results, comparisons: Sequence[dict[str, Any]]) -> str:
    ordered = sorted(comparisons, key=lambda one: -abs(one["mean"]))
    named = [_named(results, one) for one in ordered[:NAMED]]
    more = len(ordered) - NAMED
    return "; ".join(named + ([f"and {more} more"] if more > 0 else []))


def _named(results: Results, one: dict[str, Any]) -> str:
    group = f" in {one['group']}" if len(groups_of(results)) > 1 else ""
    text = f"{one['arm']}{group}: {100 * one['mean']:+.1f} points"
    if one["low"] is None:
        return text
    return f"{text}, {100 * one['low']:+.1f} to {100 * one['high']:+.1f}"


def _certainty(results: Results) -> str:
    """How sure that is, and what would make it surer."""
    found = [one for one in results["comparisons"] if one["count"]]
    judged = [one for one in found if one["verdict"] != "too few seeds"]
    needed = [one["seeds_for_half_point"] for one in found if one["seeds_for_half_point"]]
    seeds = max((one["count"] for one in found), default=len(results["seeds"]))
    middle = f"{statistics.median_high(needed):,}" if needed else ""
    if not judged:
        least = "a verdict takes five paired seeds, and there "
        least += f"{'is' if seeds == 1 else 'are'} {seeds if found else 0}"
        wanted = f"; to see half a point would take about {middle}" if middle else ""
        return f"These are leads and not results: {least}{wanted}."
    family = sum(one["p_holm"] is not None for one in found)
    unclear = sum(one["verdict"] == "unclear" for one in judged)
    held = (
        f"Verdicts hold together, by Holm's correction over all {family} comparisons of the study"
    )
    if not unclear:
        return f"{held}."
    return (
        f"{held}; what is unclear is not shown to be equal: as these runs differ, half a point"
        f" would take about {middle} paired seeds (the median over comparisons), and there are"
        f" {seeds}."
    )


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def introduction(results: Results) -> str:
    """What was run."""
    groups, arms, seeds = groups_of(results), results["arms"], results["seeds"]
    text = f"{_count(len(arms), 'way')} of training"
    if len(groups) > 1:
        text += f" in {_count(len(groups), 'setting')}"
    text += f", from the same {_count(len(seeds), 'seed')} each"
    images = sorted({row["images"] for row in results["rows"] if "images" in row})
    tested = f", tested on {' or '.join(f'{one:,}' for one in images)} images" if images else ""
    size = f" This is the study's size “{results['size']}”." if results["size"] else ""
    held = results["study"].get("budget") if isinstance(results["study"], dict) else None
    equal = f" Equal {held} were given to all." if held else ""
    return f"{text}{tested}.{equal}{size}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def remarks(results: Results) -> list[str]:
    """What a reader must know before the figures."""
    said = [results["remark"]] if results["remark"] else []
    if results["size"] == "smoke":
        said.append("The size “smoke” shows that everything works, and nothing more.")
    failed, missing = len(results["failures"]), len(results["missing"])
    total = len(results["rows"]) + failed + missing
    if failed:
        said.append(f"{failed} of {total} runs failed; they are listed below.")
    if missing:
        said.append(f"{missing} of {total} runs still to do; see below.")
    if not results["rows"]:
        said.append("No run has finished, so there is nothing to compare.")
    return said


def compared(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of all comparisons."""
    head = ["Training", "Figure", "Pairs", "Difference", "95 % (t)", "95 % (bootstrap)"]
    head += ["p", "p (Holm)", "Seeds for half a point", "Verdict"]
    several = len(groups_of(results)) > 1
    rows = []
    for one in results["comparisons"]:
        rows.append(
            [
                *([one["group"]] if several else []),
                one["arm"],
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
    return ["Group"] * several + head, rows


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
