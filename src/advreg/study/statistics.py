"""What a handful of runs say: means, differences, intervals, tests, equivalence, seeds needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from advreg.errors import ConfigurationError


@dataclass(frozen=True)
class Estimate:
    """A mean over runs and how well it is known.

    Attributes:
        mean: Over the runs, in their unit.
        standard_error: The sample standard deviation over the square root of the count.
        low: Lower end of the two-sided t interval.
        high: Its upper end.
        count: Number of runs.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Equivalence:
    """The result of two one-sided t tests (Schuirmann 1987).

    Attributes:
        bound: Differences smaller than it, either way, count as none.
        p_value: The larger one of the two tests'.
        equivalent: Whether it is below the level.
    """

    bound: float
    p_value: float
    equivalent: bool


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean with its standard error and Student's t interval.

    Args:
        values: One of each run; at least two.
        confidence: Of the interval.

    Raises:
        ConfigurationError: There are fewer than two values.
    """
    count = len(values)
    if count < 2:
        raise ConfigurationError(
            f"A standard error needs at least 2 runs and there is {count}; run more seeds."
        )
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(count)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    return Estimate(mean, error, mean - half, mean + half, count)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Differences to a baseline on the seeds that both have, in the order of the seeds.

    Args:
        values: By seed.
        baseline: By seed.
    """
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]


def equivalence(differences: Sequence[float], bound: float, level: float = 0.05) -> Equivalence:
    """Whether paired differences are shown to lie within a bound of zero.

    That no difference is found does not show that they are equal; this does: both
    a true difference of -bound or less and one of +bound or more must be rejected.

    Args:
        differences: One of each seed; at least two.
        bound: Above zero, in the differences' unit; to be chosen before they are seen.
        level: Of each one-sided test.

    Raises:
        ConfigurationError: There are fewer than two differences, or the bound is not above zero.
    """
    if not bound > 0:
        raise ConfigurationError(f"bound is {bound}; give a number above 0.")
    found = estimate(differences)
    room = bound - abs(found.mean)  # to the nearer bound, which has the larger p value
    if found.standard_error == 0:
        p_value = 0.0 if room > 0 else 1.0
    else:
        p_value = float(stats.t.sf(room / found.standard_error, found.count - 1))
    return Equivalence(bound, p_value, p_value < level)


def p_value(differences: Sequence[float]) -> float:
    """Student's two-sided paired t test that the mean difference is zero.

    Args:
        differences: One of each seed; at least two. Where all are the same number the p value is
            0, or 1 if the number is zero.

    Raises:
        ConfigurationError: There are fewer than two differences.
    """
    found = estimate(differences)
    if found.standard_error == 0:
        return 0.0 if found.mean else 1.0
    return float(2 * stats.t.sf(abs(found.mean) / found.standard_error, found.count - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for being several (Holm 1979, the step-down form of Bonferroni's).

    An adjusted one below a level means that the chance of one or more false findings among all of
    them is at most that level, however they depend on one another.

    Args:
        p_values: Of all tests of one family.

    Returns:
        The adjusted ones in the same order, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted


def seeds_needed(
    differences: Sequence[float], effect: float, power: float = 0.8, level: float = 0.05
) -> int:
    """How many pairs a two-sided paired t test needs to see a true difference of a given size.

    The pairs' spread is taken from the differences at hand and is as uncertain as they are few.

    Args:
        differences: One of each seed; at least two.
        effect: The true mean difference to be seen, in the differences' unit; above zero.
        power: The chance to see it.
        level: Of the test, before any correction for several tests.

    Returns:
        The smallest number of pairs, 2 or more.

    Raises:
        ConfigurationError: There are fewer than two differences, or the effect is not above zero.
    """
    if not effect > 0:
        raise ConfigurationError(f"effect is {effect}; give a number above 0.")
    found = estimate(differences)
    deviation = found.standard_error * math.sqrt(found.count)
    if deviation == 0:
        return 2
    enough = 2
    while _power(enough, effect / deviation, level) < power:
        enough *= 2
    few = enough // 2  # too few, unless it is 1
    while enough - few > 1:
        middle = (few + enough) // 2
        if _power(middle, effect / deviation, level) < power:
            few = middle
        else:
            enough = middle
    return enough


def _power(count: int, standardised: float, level: float) -> float:
    """Of a two-sided one-sample t test, by the noncentral t distribution."""
    critical = special.stdtrit(count - 1, 1 - level / 2)
    # At 40 the power is 1 to many digits, and further out the distribution function is not.
    shift = min(standardised * math.sqrt(count), 40.0)
    # Some versions of scipy give NaN where a probability is too small for a float.
    below, lower = np.nan_to_num(special.nctdtr(count - 1, shift, [critical, -critical]))
    return float(1 - below + lower)
