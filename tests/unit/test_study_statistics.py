import numpy as np
import pytest
from scipy import stats

from advreg.errors import ConfigurationError
from advreg.study import equivalence, estimate, paired

VALUES = [0.013, 0.02, -0.004, 0.017, 0.009, 0.022, 0.001]


def test_the_interval_is_students():
    found = estimate(VALUES)
    low, high = stats.t.interval(0.95, 6, np.mean(VALUES), stats.sem(VALUES))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.standard_error == pytest.approx(stats.sem(VALUES))
    assert found.count == 7


def test_the_interval_by_hand():
    found = estimate([1.0, 2.0, 3.0])  # standard deviation 1, t(0.975, 2) = 4.30265
    assert found.mean == 2
    assert found.standard_error == pytest.approx(0.577350, abs=1e-6)
    assert found.high == pytest.approx(2 + 4.30265 * 0.577350, abs=1e-4)


def test_one_run_has_no_standard_error():
    with pytest.raises(ConfigurationError, match="at least 2 runs"):
        estimate([0.5])


def test_pairs_are_by_seed_not_by_place():
    assert paired({1: 5.0, 0: 3.0, 7: 9.0}, {0: 1.0, 1: 1.0, 8: 0.0}) == [2.0, 4.0]


@pytest.mark.parametrize("shift", [-0.03, 0.0, 0.004, 0.03])
def test_equivalence_is_two_one_sided_tests(shift):
    values = np.array(VALUES) + shift
    lower = stats.ttest_1samp(values, -0.02, alternative="greater").pvalue
    upper = stats.ttest_1samp(values, 0.02, alternative="less").pvalue
    found = equivalence(list(values), 0.02)
    assert found.p_value == pytest.approx(max(lower, upper), rel=1e-9)
    assert found.equivalent == (max(lower, upper) < 0.05)


def test_a_wide_interval_around_zero_is_not_equivalence():
    assert not equivalence([-0.1, 0.1, -0.1, 0.1], 0.02).equivalent
    assert equivalence([-0.001, 0.001, -0.001, 0.001], 0.02).equivalent


def test_equal_differences_are_judged_without_a_spread():
    assert equivalence([0.01, 0.01], 0.02).equivalent
    assert not equivalence([0.03, 0.03], 0.02).equivalent


@pytest.mark.parametrize("bound", [0.0, -0.1, float("nan")])
def test_a_bound_is_above_zero(bound):
    with pytest.raises(ConfigurationError, match="above 0"):
        equivalence(VALUES, bound)
