"""A study's arms against its baseline: what is better, worse, equal, or not known."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advreg.errors import RunError
from advreg.study.bootstrap import bootstrap
from advreg.study.statistics import equivalence, estimate, holm, p_value, paired, seeds_needed

CLEAN = "clean"
BOUND = 0.005
"""Half a point: arms that differ by less are called equal, and it is what seeds are counted for."""

LEVEL = 0.05
FEWEST_SEEDS = 5
"""With fewer there is no verdict: the spread itself is not known well enough for one."""

Row = Mapping[str, Any]


def compare_arms(
    rows: Sequence[Row],
    baseline: str,
    arms: Sequence[str],
    groups: Sequence[str],
    epsilons: Sequence[str],
    pairs: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """Every arm against the baseline of its group, paired by seed and by test image.

    Verdicts are `better` or `worse` where Holm's p value of a paired t test is below 0.05, else
    `equal` where two one-sided tests show, Holm's correction included, a difference of less than
    half a point, else `unclear`; under five paired seeds `too few seeds`.

    Args:
        rows: A run each: `group`, `arm`, `seed`, `clean` (a share), `robust` (a share by epsilon),
            `images` and, if it is another number, `attacked`; `correct` by figure, base64 of
            `numpy.packbits` over the test images.
        baseline: The label of the arm that the others are compared to.
        arms: Labels of the arms.
        groups: Names of the groups, which are compared within themselves; those of the rows if
            there are none.
        epsilons: As they are written in the rows.
        pairs: Arms that are compared with another one than the baseline too.

    Returns:
        A comparison for each group, other arm with a run in it and figure (`clean`, then the
        epsilons), in that order, then for each of the pairs: `group`, `arm`, `to`, `figure`,
        `count` (of paired seeds), `mean`,
        `low` and `high` (t, 95 %), `bootstrap_low` and `bootstrap_high` (over seeds and images,
        95 %), `p`, `p_holm`, `p_equal` and `p_equal_holm` (of equivalence),
        `seeds_for_half_point` (power 0.8) and
        `verdict`. Differences are shares; what too few runs cannot say is None.

    Raises:
        RunError: The record of a run's images is damaged or of another number of images.
    """
    names = list(groups) or list(dict.fromkeys(row["group"] for row in rows))
    figures = [CLEAN, *epsilons]
    wanted = [(arm, baseline) for arm in arms if arm != baseline]
    found = [
        {"group": group, "arm": arm, "to": other, "figure": figure}
        | _difference(_rows(rows, group, arm), _rows(rows, group, other), figure)
        for group in names
        for arm, other in [*wanted, *pairs]
        # A group may leave arms out.
        if _rows(rows, group, arm) and (other == baseline or _rows(rows, group, other))
        for figure in figures
    ]
    tested = [one for one in found if one["p"] is not None]
    for name in ("p", "p_equal"):
        for one, adjusted in zip(tested, holm([one[name] for one in tested]), strict=True):
            one[f"{name}_holm"] = adjusted
    for one in found:
        one["verdict"] = _verdict(one)
    return found


def _rows(rows: Sequence[Row], group: str, arm: str) -> dict[int, Row]:
    return {row["seed"]: row for row in rows if (row["group"], row["arm"]) == (group, arm)}


def _difference(mine: Mapping[int, Row], others: Mapping[int, Row], figure: str) -> dict[str, Any]:
    differences = paired(_values(mine, figure), _values(others, figure))
    result: dict[str, Any] = {
        "count": len(differences),
        "mean": sum(differences) / len(differences) if differences else None,
        **dict.fromkeys(("low", "high", "bootstrap_low", "bootstrap_high")),
        **dict.fromkeys(("p", "p_holm", "p_equal", "p_equal_holm", "seeds_for_half_point")),
    }
    if len(differences) < 2:
        return result
    interval = estimate(differences)
    result |= {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p": p_value(differences),
        "p_equal": equivalence(differences, BOUND).p_value,
        "seeds_for_half_point": seeds_needed(differences, BOUND),
    }
    images = _by_image(mine, others, figure)
    if images is not None:
        result["bootstrap_low"], result["bootstrap_high"] = bootstrap(images)
    return result


def _values(rows: Mapping[int, Row], figure: str) -> dict[int, float]:
    found = {
        seed: row["clean"] if figure == CLEAN else row["robust"].get(figure)
        for seed, row in rows.items()
    }
    return {
        seed: value for seed, value in found.items() if value is not None and math.isfinite(value)
    }


def _by_image(
    mine: Mapping[int, Row], others: Mapping[int, Row], figure: str
) -> NDArray[np.int8] | None:
    """(seeds, images) of -1, 0 and 1, if all runs have them and of the same images."""
    seeds = sorted(_values(mine, figure).keys() & _values(others, figure).keys())
    pairs = [(_correct(mine[seed], figure), _correct(others[seed], figure)) for seed in seeds]
    found = [one for pair in pairs for one in pair if one is not None]
    if len(found) < 2 * len(pairs) or len({len(one) for one in found}) != 1 or len(found[0]) < 2:
        return None
    return np.stack(found[::2]).astype(np.int8) - np.stack(found[1::2]).astype(np.int8)


def _correct(row: Row, figure: str) -> NDArray[np.uint8] | None:
    text = row.get("correct", {}).get(figure)
    if text is None:
        return None
    count = row["images"] if figure == CLEAN else row.get("attacked", row["images"])
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except ValueError:
        packed = np.zeros(0, dtype=np.uint8)
    if len(packed) != (count + 7) // 8:
        raise RunError(
            f"The record of which images the run of {row['arm']!r} with seed {row['seed']} had"
            f" right ({figure}) is damaged or not of {count} images; evaluate the run again."
        )
    return np.unpackbits(packed, count=count)


def _verdict(comparison: Mapping[str, Any]) -> str:
    if comparison["count"] < FEWEST_SEEDS:
        return "too few seeds"
    if comparison["p_holm"] < LEVEL:
        return "better" if comparison["mean"] > 0 else "worse"
    return "equal" if comparison["p_equal_holm"] < LEVEL else "unclear"
