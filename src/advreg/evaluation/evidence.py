"""What stands behind a robust accuracy: measured figures to rows, each with a plain verdict.

After Carlini et al. (2019), "On evaluating adversarial robustness". The rows are pure functions
of figures, and none of them sums the others up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

HOLDS = "holds"
FAILS = "does not hold"
UNKNOWN = "not measured"

MARGIN = 0.005
"""Half a point: a difference in accuracy below it counts as none."""

REPEATABLE = 1e-4
"""Outputs of one input that differ by more, relative to the largest, are not the same."""

BLACK_BOX = ("transfer", "noise", "square")
"""Attacks without the tested model's gradient, which those with it must not fall behind."""


@dataclass(frozen=True)
class Figures:
    """What was measured; None, or a name that is missing, stands for what was not.

    Accuracies are shares of the same examples at one budget, but for the curve's.

    Attributes:
        epsilon: The budget, as the user wrote it.
        single_step: Accuracy under FGSM.
        iterative: Accuracy under PGD.
        doubled: A pair: under PGD, and with twice its steps, on the same examples.
        curve: Pairs of a budget and the accuracy, upwards from budget 0.
        chance: One over the number of classes.
        against: For each name of `BLACK_BOX`, a pair: the worst case over the attacks that see
            the gradient, and that attack, on the same examples.
        unmeasured: For a name of `BLACK_BOX`, or `repeat`, why it was not measured.
        zero_gradient: Share of clean examples at which the loss's gradient is zero.
        repeat: The largest difference between two passes of one input, relative to its outputs.
        evaluated: Whether the attacks ran on the network in evaluation mode.
        detached: Whether no adversary was attached to it.
        same_weights: Whether its weights are those of the run's checkpoint.
    """

    epsilon: str = ""
    single_step: float | None = None
    iterative: float | None = None
    doubled: tuple[float, float] | None = None
    curve: Sequence[tuple[float, float]] = ()
    chance: float | None = None
    against: dict[str, tuple[float, float]] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)
    zero_gradient: float | None = None
    repeat: float | None = None
    evaluated: bool | None = None
    detached: bool | None = None
    same_weights: bool | None = None


@dataclass(frozen=True)
class Row:
    """One piece of evidence.

    Attributes:
        name: What is claimed.
        figure: A share or a difference of shares; None where it was not measured.
        verdict: `holds`, `does not hold` or `not measured`.
        sentence: The figures in words.
    """

    name: str
    figure: float | None
    verdict: str
    sentence: str

    def to_dict(self) -> dict[str, str | float | None]:
        """Ready for JSON."""
        return asdict(self)


def evidence(figures: Figures) -> list[Row]:
    """All rows, in the order in which a reader should see them."""
    return [
        deployed_row(figures),
        repeat_row(figures),
        gradient_row(figures),
        iterative_row(figures),
        growth_row(figures),
        chance_row(figures),
        doubling_row(figures),
        *(against_row(figures, name) for name in BLACK_BOX),
    ]


def iterative_row(figures: Figures) -> Row:
    """PGD against FGSM: where one step does better, the many steps were led astray."""
    name = "iterative attack at least as strong as single-step"
    if figures.iterative is None or figures.single_step is None:
        return _unknown(name)
    gap = figures.iterative - figures.single_step
    sentence = (
        f"At {figures.epsilon} PGD leaves {_percent(figures.iterative)} correct, FGSM"
        f" {_percent(figures.single_step)}."
    )
    return Row(name, gap, _verdict(gap < MARGIN), sentence)


def growth_row(figures: Figures) -> Row:
    """Accuracy over the budget: a larger ball holds the smaller one, so it can only fall."""
    name = "success grows with epsilon"
    if len(figures.curve) < 2:
        return _unknown(name)
    rise, low, high = max(
        (after - before, low, high) for (low, before), (high, after) in pairwise(figures.curve)
    )
    (_, first), (end, last) = figures.curve[0], figures.curve[-1]
    held = rise < MARGIN and last < first
    sentence = f"Accuracy goes from {_percent(first)} to {_percent(last)} at {end:.3g}"
    if rise >= MARGIN:
        sentence += f", and rises by {_points(rise)} between {low:.3g} and {high:.3g}"
    return Row(name, rise, _verdict(held), sentence + ".")


def chance_row(figures: Figures) -> Row:
    """A ball wide enough holds images of every class, so that no network can withstand."""
    name = "large epsilon reaches chance"
    if len(figures.curve) < 2 or figures.chance is None:
        return _unknown(name)
    epsilon, accuracy = figures.curve[-1]
    sentence = (
        f"At {epsilon:.3g} the accuracy is {_percent(accuracy)}; chance is"
        f" {_percent(figures.chance)}."
    )
    return Row(name, accuracy, _verdict(accuracy < figures.chance + MARGIN), sentence)


def doubling_row(figures: Figures) -> Row:
    """More steps must change nothing, or the attack had not converged."""
    name = "doubling the steps changes under half a point"
    if figures.doubled is None:
        return _unknown(name)
    once, twice = figures.doubled
    sentence = (
        f"At {figures.epsilon} PGD leaves {_percent(once)} correct, with twice the steps"
        f" {_percent(twice)}."
    )
    return Row(name, twice - once, _verdict(abs(twice - once) < MARGIN), sentence)


def against_row(figures: Figures, other: str) -> Row:
    """The gradient must help: an attack without it does no better where it is not masked."""
    name = f"white box at least as strong as {other}"
    if other not in figures.against:
        return _unknown(name, figures.unmeasured.get(other))
    white, black = figures.against[other]
    sentence = (
        f"At {figures.epsilon} the attacks that see the gradient leave {_percent(white)} correct,"
        f" {other} {_percent(black)}."
    )
    return Row(name, white - black, _verdict(white - black < MARGIN), sentence)


def gradient_row(figures: Figures) -> Row:
    """Where the gradient is zero, an attack that follows it says nothing."""
    name = "gradients are not zero"
    share = figures.zero_gradient
    if share is None:
        return _unknown(name)
    sentence = f"The gradient at the input is zero for {_percent(share)} of the examples."
    return Row(name, share, _verdict(share < MARGIN), sentence)


def repeat_row(figures: Figures) -> Row:
    """A randomised network needs attacks that average over its randomness; these do not."""
    name = "the same input gives the same answer"
    if figures.repeat is None:
        return _unknown(name, figures.unmeasured.get("repeat"))
    sentence = f"Two passes of one batch differ by {figures.repeat:.1g} of its largest output."
    return Row(name, figures.repeat, _verdict(figures.repeat < REPEATABLE), sentence)


def deployed_row(figures: Figures) -> Row:
    """What is attacked must be what is used."""
    name = "the attacked model is the deployed one"
    parts = {
        "in evaluation mode": figures.evaluated,
        "without an adversary": figures.detached,
        "with the weights of the run's checkpoint": figures.same_weights,
    }
    failed = [f"not {part}" for part, held in parts.items() if held is False]
    unknown = [part for part, held in parts.items() if held is None]
    if failed:
        return Row(name, 0.0, FAILS, f"It was attacked {' and '.join(failed)}.")
    if unknown:
        return Row(name, None, UNKNOWN, f"Not known: whether it was {' and '.join(unknown)}.")
    return Row(name, 1.0, HOLDS, f"It was attacked {', '.join(parts)}.")


def _verdict(held: bool) -> str:
    return HOLDS if held else FAILS


def _unknown(name: str, reason: str | None = None) -> Row:
    return Row(name, None, UNKNOWN, reason or "This was not measured.")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:.1f} points"
