"""Estimates, equivalence, and the verdicts that follow from them."""

import numpy as np
import pytest
from scipy import stats

from advreg.errors import ConfigurationError
from advreg.study import equivalence, estimate, paired
from advreg.study.cost import Cost
from advreg.study.digits import EXAMPLE, FGSM, PLAIN, RANDOM_HIDDEN, SLOT
from advreg.study.digits import RANDOM_INPUT as RANDOM
from advreg.study.summary import summarise
from advreg.study.verdicts import demo_verdicts

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


def test_pairs_are_by_seed_not_by_place():
    assert paired({1: 5.0, 0: 3.0, 7: 9.0}, {0: 1.0, 1: 1.0, 8: 0.0}) == [2.0, 4.0]


def test_equivalence_is_two_one_sided_tests():
    for shift in (-0.03, 0.0, 0.004, 0.03):
        values = np.array(VALUES) + shift
        lower = stats.ttest_1samp(values, -0.02, alternative="greater").pvalue
        upper = stats.ttest_1samp(values, 0.02, alternative="less").pvalue
        found = equivalence(list(values), 0.02)
        assert found.p_value == pytest.approx(max(lower, upper), rel=1e-9)
        assert found.equivalent == (max(lower, upper) < 0.05)
    assert not equivalence([-0.1, 0.1, -0.1, 0.1], 0.02).equivalent
    assert equivalence([-0.001, 0.001, -0.001, 0.001], 0.02).equivalent
    assert equivalence([0.01, 0.01], 0.02).equivalent
    assert not equivalence([0.03, 0.03], 0.02).equivalent


def test_one_run_has_no_error_and_a_bound_is_above_zero():
    with pytest.raises(ConfigurationError, match="at least 2 runs"):
        estimate([0.5])
    for bound in (0.0, -0.1, float("nan")):
        with pytest.raises(ConfigurationError, match="above 0"):
            equivalence(VALUES, bound)


NOISE = [-0.01, 0.0, 0.01, 0.0, 0.005, -0.005, 0.002, -0.002]
CLAIMS = ["more robust", "more accurate", "FGSM training's equal", "less time", "random", "noise"]


def rows(label, clean, fgsm, pgd=0.5, noise=0.2):
    """Eight runs around the given figures; pairs differ by a share of the noise."""
    return [
        {
            "arm": label,
            "seed": seed,
            "clean": clean + noise * wobble,
            "fgsm": {"0.1": fgsm + noise * wobble},
            "pgd": {"0.1": pgd + noise * wobble},
            "training": {"train_loss": [1.0 + seed, 0.5], "validation_accuracy": [0.1, 0.9]},
            "warnings": [],
        }
        for seed, wobble in enumerate(NOISE)
    ]


def cost(median):
    return Cost(median, median - 0.02, median + 0.02, 20, 5.0)


def judge(slot=(0.935, 0.7), example=0.76, random=(0.921, 0.54), times=(1.05, 1.9)):
    found = [
        *rows(PLAIN, 0.92, 0.53, noise=1.0),
        *rows(SLOT, *slot),
        *rows(RANDOM, *random, noise=0.8),
        *rows(FGSM, 0.94, 0.75, 0.73),
        *rows(EXAMPLE, 0.94, 0.78, example, noise=0.3),
    ]
    return demo_verdicts(found, {EXAMPLE: cost(times[0]), FGSM: cost(times[1])})


def verdict(verdicts, words):
    (found,) = [one for one in verdicts if words in one.claim]
    return found


def test_every_claim_holds_on_figures_that_bear_it_out():
    verdicts = judge()
    assert all(one.held for one in verdicts)
    assert len(verdicts) == len(CLAIMS)
    assert "+17.0 points" in verdict(verdicts, "more robust").sentence
    assert "more than the 8 claimed" in verdict(verdicts, "more robust").sentence


def test_a_verdict_falls_with_its_figures():
    for figures, claim, said in (
        ({"slot": (0.935, 0.60)}, "more robust", "beats plain training: +7.0 points"),
        ({"slot": (0.935, 0.60)}, "more robust", "short of the 8 claimed"),
        ({"slot": (0.935, 0.40)}, "more robust", "loses to plain training: -13.0 points"),
        ({"slot": (0.921, 0.7)}, "more accurate", "includes zero, so that no difference is shown"),
        ({"slot": (0.90, 0.7)}, "more accurate", "lies below zero"),
        ({"example": 0.70}, "FGSM training's equal", "-3.0 points"),
        ({"example": 0.70}, "FGSM training's equal", "it is the less robust one"),
        ({"times": (1.9, 1.9)}, "less time", "that it is cheaper is not shown"),
        ({"random": (0.921, 0.63)}, "random", "not equivalent"),
        ({"random": (0.921, 0.63)}, "random", "alone does a good deal"),
        ({"random": (0.921, 0.59)}, "random", "is not shown"),
        ({"random": (0.94, 0.53)}, "random", "not equivalent"),
        ({"random": (0.92, 0.75)}, "noise", "loses to random signs"),
    ):
        found = verdict(judge(**figures), claim)
        assert not found.held
        assert said in found.sentence


def test_a_little_worse_than_fgsm_training_is_still_its_equal():
    found = verdict(judge(example=0.727), "FGSM training's equal")
    assert found.held
    assert "to within 1 point" in found.sentence


def test_each_control_is_judged_by_its_own_figures():
    found = [
        *rows(PLAIN, 0.92, 0.53, noise=1.0),
        *rows(RANDOM_HIDDEN, 0.921, 0.54, noise=0.8),
        *rows(RANDOM, 0.921, 0.73, noise=0.8),
    ]
    verdicts = demo_verdicts(found, {})
    assert verdict(verdicts, "hidden sites").held
    assert not verdict(verdicts, "signs at the input").held


def test_too_few_runs_are_not_judged():
    found = [row for row in rows(PLAIN, 0.9, 0.5) + rows(SLOT, 0.9, 0.7) if row["seed"] == 0]
    assert demo_verdicts(found, {}) == []


def test_a_summary_pairs_by_seed_and_has_none_where_there_are_too_few():
    found = [
        *rows(PLAIN, 0.90, 0.5, noise=1.0),
        *rows(SLOT, 0.92, 0.6, noise=1.0)[::-1],
        *rows(RANDOM, 0.9, 0.5)[:1],
    ]
    summary = summarise(found, [PLAIN, SLOT, RANDOM], ["0.1"])
    difference = summary[SLOT]["clean"]["difference"]
    assert difference["mean"] == pytest.approx(0.02)
    assert difference["standard_error"] == pytest.approx(0, abs=1e-9)
    assert summary[SLOT]["clean"]["standard_error"] > 0.001
    assert summary[PLAIN]["fgsm"]["0.1"]["difference"] is None
    assert summary[PLAIN]["training"]["train_loss"] == [4.5, 0.5]
    assert summary[RANDOM]["clean"] is None
    assert summary[RANDOM]["runs"] == 1
