"""What a study's page says in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from advreg.report.study.read import (
    CLEAN,
    Results,
    goal_figure,
    groups_of,
    labels_of,
    learnt_little,
    rows_of,
)

NAMED = 3
"""A sentence names so many arms of a kind at most."""

SHORTENED = ("smoke", "quick")
"""Sizes whose figures say nothing."""


def where(figure: str) -> str:
    """Of an accuracy, in a sentence."""
    return "on clean images" if figure == CLEAN else f"under attack at {figure}"


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


def remarks(results: Results) -> list[str]:
    """What a reader must know before the figures."""
    said = [results["remark"]] if results["remark"] else []
    if results["size"] in SHORTENED:
        said.append(f"The size “{results['size']}” shows that everything works, and nothing more.")
    failed, missing = len(results["failures"]), len(results["missing"])
    total = len(results["rows"]) + failed + missing
    if failed:
        said.append(f"{failed} of {total} runs failed; they are listed below.")
    if missing:
        said.append(f"{missing} of {total} runs still to do; see below.")
    if not results["rows"]:
        said.append("No run has finished, so there is nothing to compare.")
    return said + [text for group in groups_of(results) if (text := _unlearnt(results, group))]


def _unlearnt(results: Results, group: str) -> str:
    """The arms of a group with runs that hardly learnt: no difference to these says anything."""
    named = []
    for arm in labels_of(results):
        rows = rows_of(results, group, arm)
        poor = [row for row in rows if learnt_little(row)]
        if poor:
            mean = 100 * statistics.fmean(row["clean"] for row in poor)
            named.append(f"{arm} ({len(poor)} of {_count(len(rows), 'run')}, {mean:.1f} %)")
    if not named:
        return ""
    if len(named) > NAMED:
        named[NAMED:] = [f"{len(named) - NAMED} more"]
    place = f" in {group}" if len(groups_of(results)) > 1 else ""
    return (
        f"Hardly better on clean images than one class for all of them{place}: {_joined(named)}."
        " Differences to such runs say nothing; try more epochs, more images or another learning"
        " rate."
    )


def outcome(results: Results) -> list[str]:
    """What came out, in three sentences and one for each of the pairs, whichever way it fell."""
    goal = goal_figure(results)
    other = CLEAN if goal != CLEAN else goal_figure({**results, "goal": "robustness"})
    said = [_outcome(results, goal)]
    if other != goal:
        said.append(_outcome(results, other))
    further = [one for one in results["comparisons"] if one["to"] != results["baseline"]]
    pairs = dict.fromkeys((one["arm"], one["to"]) for one in further if one["count"])
    said += [_pair(results, *pair, figures=dict.fromkeys((goal, other))) for pair in pairs]
    return [*said, _certainty(results)]


def _outcome(results: Results, figure: str) -> str:
    """One figure's comparisons, counted by verdict and named."""
    found = [
        one
        for one in results["comparisons"]
        if one["figure"] == figure and one["to"] == results["baseline"] and one["count"]
    ]
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
    return f"{_upper(place)}, of {total} with {results['baseline']}, {_joined(parts)}."


def _names(results: Results, comparisons: Sequence[dict[str, Any]]) -> str:
    ordered = sorted(comparisons, key=lambda one: -abs(one["mean"]))
    named = [_named(results, one) for one in ordered[:NAMED]]
    more = len(ordered) - NAMED
    return "; ".join(named + ([f"and {more} more"] if more > 0 else []))


def _named(results: Results, one: dict[str, Any]) -> str:
    text = f"{one['arm']}{_within(results, one)}: {100 * one['mean']:+.1f} points"
    if one["low"] is None:
        return text
    return f"{text}, {100 * one['low']:+.1f} to {100 * one['high']:+.1f}"


def _pair(results: Results, arm: str, other: str, figures: Iterable[str]) -> str:
    """Two arms, neither of them the baseline, figure by figure."""
    parts = []
    for figure in figures:
        for one in results["comparisons"]:
            if (one["arm"], one["to"], one["figure"]) == (arm, other, figure) and one["count"]:
                parts.append(f"{_difference(one)} {where(figure)}{_within(results, one)}")
    return f"Against {other}, {arm} has {'; '.join(parts)}."


def _difference(one: dict[str, Any]) -> str:
    """Points, their interval and the verdict, in running text."""
    text = f"{100 * one['mean']:+.1f} points"
    if one["low"] is None:
        return text
    return f"{text} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f}, {one['verdict']})"


def _within(results: Results, one: dict[str, Any]) -> str:
    return f" in {one['group']}" if len(groups_of(results)) > 1 else ""


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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
