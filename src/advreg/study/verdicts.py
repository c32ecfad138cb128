"""What the demo claims, held against its figures; a claim that fails is said as plainly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advreg.study.cost import Cost
from advreg.study.digits import EXAMPLE, FGSM, PLAIN, RANDOM_HIDDEN, RANDOM_INPUT, SLOT
from advreg.study.plan import Row
from advreg.study.statistics import Estimate, equivalence, estimate
from advreg.study.summary import compare

# All of these were chosen before a demo was run, on the first study's figures (16 other seeds).
SLOT_GAIN = 0.08
"""What slot memory should gain at FGSM 0.1; the first study saw 15 points."""

MARGIN = 0.01
"""Example memory may be this much worse than FGSM training and still count as its equal.

Nine of the 899 test images, within the standard error of one network's accuracy.
"""

CLEAN_BOUND = 0.01
"""Random signs must be closer to plain than this. Under the 1.3 points that slot memory gained,
so that noise within it cannot be the reason; and about the least that ten seeds can show."""

FGSM_BOUND = 0.06
"""Likewise at FGSM 0.1, under the 8 points claimed for slot memory."""


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    Attributes:
        claim: In a few words.
        held: Whether the figures bear it out.
        sentence: What the figures say.
    """

    claim: str
    held: bool
    sentence: str


def demo_verdicts(rows: Sequence[Row], cost: Mapping[str, Cost]) -> list[Verdict]:
    """Judges every claim that there are at least two pairs of runs and, for time, a cost for."""
    verdicts = []
    slot = compare(rows, SLOT, PLAIN, "fgsm", "0.1")
    slot_clean = compare(rows, SLOT, PLAIN, "clean")
    example = compare(rows, EXAMPLE, FGSM, "pgd", "0.1")
    memory = compare(rows, SLOT, RANDOM_INPUT, "fgsm", "0.1")
    if len(slot) > 1:
        verdicts += [slot_robust(slot), slot_accurate(slot_clean)]
    if len(example) > 1:
        verdicts.append(example_robust(example))
    if EXAMPLE in cost and FGSM in cost:
        verdicts.append(example_cheap(cost[EXAMPLE], cost[FGSM]))
    for control in (RANDOM_HIDDEN, RANDOM_INPUT):
        attacked = compare(rows, control, PLAIN, "fgsm", "0.1")
        if len(attacked) > 1:
            clean = compare(rows, control, PLAIN, "clean")
            verdicts.append(random_like_plain(control, clean, attacked))
    if len(memory) > 1:
        verdicts.append(memory_matters(memory))
    return verdicts


def slot_robust(differences: Sequence[float]) -> Verdict:
    """Slot memory against plain training at FGSM 0.1."""
    found = estimate(differences)
    held = found.mean > SLOT_GAIN and found.low > 0
    sentence = (
        f"At FGSM 0.1 slot memory {_beats(found, 'plain training')}: {_points(found)},"
        f" {'more than' if held else 'short of'} the {100 * SLOT_GAIN:.0f} claimed."
    )
    return Verdict("slot memory is more robust than plain training", held, sentence)


def slot_accurate(differences: Sequence[float]) -> Verdict:
    """Slot memory against plain training on clean images."""
    found = estimate(differences)
    where = (
        "lies above zero"
        if found.low > 0
        else "lies below zero"
        if found.high < 0
        else "includes zero, so that no difference is shown"
    )
    sentence = (
        f"On clean images slot memory differs from plain training by {_points(found)};"
        f" the interval {where}."
    )
    return Verdict("slot memory is more accurate on clean images", found.low > 0, sentence)


def example_robust(differences: Sequence[float]) -> Verdict:
    """Example memory against FGSM training under PGD-10 at 0.1."""
    found = estimate(differences)
    held = found.low > -MARGIN
    margin = f"{100 * MARGIN:.0f} point"
    if found.low > 0:
        reading = "it is the more robust one"
    elif held:
        reading = f"it is at least its equal, to within {margin}"
    elif found.high < 0:
        reading = "it is the less robust one"
    else:
        reading = f"that it is at least its equal, to within {margin}, is not shown"
    sentence = (
        f"Under PGD-10 at 0.1 example memory differs from FGSM training by {_points(found)};"
        f" {reading}."
    )
    return Verdict("example memory is at least FGSM training's equal under PGD", held, sentence)


def example_cheap(example: Cost, fgsm: Cost) -> Verdict:
    """The time of a step with example memory against one of FGSM training."""
    # The quartiles must part, so that a tie within the clock's noise is no success.
    held = example.upper < fgsm.lower
    sentence = (
        f"A step with example memory takes {example.median:.2f} times a plain one"
        f" (quartiles {example.lower:.2f} to {example.upper:.2f}), one of FGSM training"
        f" {fgsm.median:.2f} times ({fgsm.lower:.2f} to {fgsm.upper:.2f});"
        f" {'it is the cheaper one' if held else 'that it is cheaper is not shown'}."
    )
    return Verdict("example memory takes less time than FGSM training", held, sentence)


def random_like_plain(control: str, clean: Sequence[float], attacked: Sequence[float]) -> Verdict:
    """A control against plain training, by two one-sided tests."""
    tests = (equivalence(clean, CLEAN_BOUND), equivalence(attacked, FGSM_BOUND))
    found = (estimate(clean), estimate(attacked))
    held = all(test.equivalent for test in tests)
    beyond = any(
        one.low > test.bound or one.high < -test.bound
        for one, test in zip(found, tests, strict=True)
    )
    parts = [
        f"by {_points(one)} {where}, {'' if test.equivalent else 'not '}equivalent within"
        f" {100 * test.bound:.0f} (p = {test.p_value:.2g}),"
        for one, where, test in zip(found, ("on clean images", "at FGSM 0.1"), tests, strict=True)
    ]
    if held:
        reading = "noise of that size alone does next to nothing"
    elif beyond:
        reading = "noise of that size alone does a good deal"
    else:
        reading = "that noise of that size alone does next to nothing is not shown"
    sentence = f"They differ from plain training {' and '.join(parts)[:-1]}: {reading}."
    site = "the input" if control == RANDOM_INPUT else "hidden sites"
    return Verdict(f"random signs at {site} are equivalent to plain training", held, sentence)


def memory_matters(differences: Sequence[float]) -> Verdict:
    """Slot memory against random signs of the same size at FGSM 0.1."""
    found = estimate(differences)
    sentence = (
        f"At FGSM 0.1, with the same site and budget, slot memory {_beats(found, 'random signs')}:"
        f" {_points(found)}."
    )
    return Verdict("the remembered gradient does more than noise", found.low > 0, sentence)


def _beats(found: Estimate, other: str) -> str:
    if found.low > 0:
        return f"beats {other}"
    return f"loses to {other}" if found.high < 0 else f"does not differ clearly from {other}"


def _points(found: Estimate) -> str:
    """In percentage points, with the interval."""
    return (
        f"{100 * found.mean:+.1f} points (95 % interval {100 * found.low:+.1f} to"
        f" {100 * found.high:+.1f})"
    )
