"""From the rows of a study to a mean, and a paired difference to the baseline, of every figure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from advreg.study.plan import Row
from advreg.study.statistics import estimate, paired


def by_seed(rows: Sequence[Row], arm: str, figure: str, epsilon: str = "") -> dict[int, float]:
    """One figure of one arm.

    Args:
        rows: Of all runs.
        arm: The arm's label.
        figure: `clean`, `fgsm` or `pgd`.
        epsilon: The attack's budget, as it is written in the rows.
    """
    return {
        row["seed"]: row[figure][epsilon] if epsilon else row[figure]
        for row in rows
        if row["arm"] == arm
    }


def compare(
    rows: Sequence[Row], arm: str, baseline: str, figure: str, epsilon: str = ""
) -> list[float]:
    """Paired differences of an arm to another one, as shares."""
    return paired(by_seed(rows, arm, figure, epsilon), by_seed(rows, baseline, figure, epsilon))


def summarise(
    rows: Sequence[Row], labels: Sequence[str], epsilons: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Every arm's figures over its seeds; the first label is the baseline.

    Returns:
        By label: `runs`; `clean`, `fgsm` and `pgd` (by epsilon), each with the fields of
        `Estimate` and a `difference` with the same; `training`, means by epoch; `warned`, how
        many runs warned of a collapse. What needs more runs than there are is None.
    """
    return {
        label: {
            "runs": len(mine),
            "clean": _figure(rows, label, labels[0], "clean"),
            **{
                attack: {text: _figure(rows, label, labels[0], attack, text) for text in epsilons}
                for attack in ("fgsm", "pgd")
            },
            "training": {
                name: [
                    statistics.fmean(values)
                    for values in zip(*(row["training"][name] for row in mine), strict=True)
                ]
                for name in ("train_loss", "validation_accuracy")
            },
            "warned": sum(bool(row["warnings"]) for row in mine),
        }
        for label in labels
        for mine in [[row for row in rows if row["arm"] == label]]
    }


def _figure(
    rows: Sequence[Row], arm: str, baseline: str, figure: str, epsilon: str = ""
) -> dict[str, Any] | None:
    values = list(by_seed(rows, arm, figure, epsilon).values())
    if len(values) < 2:
        return None
    differences = compare(rows, arm, baseline, figure, epsilon)
    several = arm != baseline and len(differences) > 1
    return {
        **asdict(estimate(values)),
        "difference": asdict(estimate(differences)) if several else None,
    }
