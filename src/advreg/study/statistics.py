"""What a handful of runs say: means, paired differences, intervals and equivalence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

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
