"""What a report says, before it becomes a page, Markdown or a terminal's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NONE = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Cell:
    """One figure of the table.

    Attributes:
        figure: The mean with its standard error.
        detail: The difference to the baseline with its own; empty for the baseline.
        sure: Whether the difference's 95 % interval excludes zero.
    """

    figure: str
    detail: str = ""
    sure: bool = False


@dataclass(frozen=True)
class Column:
    """A column of accuracies: its heading and where its figures are."""

    heading: str
    figure: str
    epsilon: str = ""


def columns(results: dict[str, Any]) -> list[Column]:
    """The accuracies of the table: clean, FGSM at 0.1 and 0.2, PGD at 0.1."""
    steps = results["settings"]["attacks"]["pgd_steps"]
    return [
        Column("Clean", "clean"),
        Column("FGSM 0.1", "fgsm", "0.1"),
        Column("FGSM 0.2", "fgsm", "0.2"),
        Column(f"PGD-{steps} 0.1", "pgd", "0.1"),
    ]


def headings(results: dict[str, Any]) -> list[str]:
    """Of all columns after the first one."""
    return [*(column.heading for column in columns(results)), "Step time"]


def table(results: dict[str, Any]) -> list[tuple[str, list[Cell]]]:
    """A row for each arm: its label, its accuracies and its time."""
    rows = []
    for label in labels(results):
        summary = results["summary"][label]
        cells = [_accuracy(figure(summary, column)) for column in columns(results)]
        rows.append((label, [*cells, _time(results["cost"].get(label))]))
    return rows


def labels(results: dict[str, Any]) -> list[str]:
    """The arms'; the first one is the baseline."""
    return [arm["label"] for arm in results["arms"]]


def figure(summary: dict[str, Any], column: Column) -> dict[str, Any] | None:
    """One figure of an arm's summary; None where there are too few runs."""
    found = summary[column.figure]
    chosen: dict[str, Any] | None = found[column.epsilon] if column.epsilon else found
    return chosen


def _accuracy(found: dict[str, Any] | None) -> Cell:
    if found is None:
        return Cell(NONE)
    text = f"{100 * found['mean']:.1f} ± {100 * found['standard_error']:.1f}"
    difference = found["difference"]
    if difference is None:
        return Cell(text)
    return Cell(
        text,
        f"{100 * difference['mean']:+.1f} ± {100 * difference['standard_error']:.1f}",
        difference["low"] > 0 or difference["high"] < 0,
    )


def _time(cost: dict[str, Any] | None) -> Cell:
    if cost is None:
        return Cell(NONE)
    baseline = cost["lower"] == cost["upper"] == 1
    return Cell(
        f"{cost['median']:.2f}", "" if baseline else f"{cost['lower']:.2f}-{cost['upper']:.2f}"
    )


def introduction(results: dict[str, Any]) -> str:
    """What was run, in two sentences."""
    settings = results["settings"]
    data, attacks = settings["data"], settings["attacks"]
    return (
        f"{number_word(len(results['arms']))} ways of training the same network"
        f" ({settings['model']['name']}) on {data['limit']} images of the data set"
        f" {data['name']}, for {settings['epochs']} epochs each, were compared from the same"
        f" {len(results['seeds'])} seeds; every seed draws its own training images, initial"
        " weights and order. The network of the last epoch was then tested on"
        f" {attacks['test_images']} test images: as they are, under FGSM, and under PGD with"
        f" {attacks['pgd_steps']} steps (L∞, epsilon as a share of the pixel range)."
    )


def number_word(count: int) -> str:
    """A number as a sentence begins with it."""
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
    return words[count] if count < len(words) else str(count)


def caption(results: dict[str, Any]) -> str:
    """How to read the table."""
    rounds = max((cost["rounds"] for cost in results["cost"].values()), default=0)
    text = (
        "Accuracy in percent: mean over seeds ± its standard error; below it the difference to"
        f" {labels(results)[0]} on the same seeds ± its own standard error, in points."
    )
    if rounds:
        text += (
            f" Step time is relative to {labels(results)[0]}: the median over {rounds} rounds in"
            " which each had its turn on one thread; below it the quartiles."
        )
    return text


def remarks(results: dict[str, Any]) -> list[str]:
    """What a reader must know besides: an early end, failed runs, warnings."""
    said = []
    if results.get("quick"):
        said.append("This was a shortened demo: it shows that everything works, nothing more.")
    if results.get("interrupted"):
        total = len(results["arms"]) * len(results["seeds"])
        said.append(
            f"The demo was interrupted: {len(results['rows'])} of {total} runs were finished."
        )
    for failure in results["failures"]:
        said.append(f"{failure['arm']}, seed {failure['seed']}, failed: {failure['reason']}")
    for label in labels(results):
        summary = results["summary"][label]
        if summary["warned"]:
            said.append(
                f"{label}: {summary['warned']} of {summary['runs']} runs warned that the training"
                " loss stayed at chance for a while."
            )
    return said


def verdict_mark(verdict: dict[str, Any]) -> str:
    """Held or not, in a word."""
    return "Held" if verdict["held"] else "Did not hold"


def claim(verdict: dict[str, Any]) -> str:
    """The claim as a sentence; `str.capitalize` would write fgsm."""
    text = verdict["claim"]
    return f"{text[:1].upper()}{text[1:]}."


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
