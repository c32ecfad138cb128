"""Comparisons of a study's arms, against scipy, statsmodels, slow twins and simulation."""

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from advreg.errors import ConfigurationError, RunError
from advreg.study.bootstrap import bootstrap
from advreg.study.comparisons import compare_arms
from advreg.study.statistics import _power, holm, p_value, seeds_needed

VALUES = [0.013, 0.02, -0.004, 0.017, 0.009, 0.022, 0.001]


def packed(correct):
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def row(arm, seed, correct, group="", **more):
    """A run of one figure more than clean, 2/255, at which it has half as many images right."""
    clean = np.asarray(correct, dtype=np.uint8)
    attacked = clean * (np.arange(len(clean)) % 2)
    return {
        "group": group,
        "arm": arm,
        "seed": seed,
        "clean": float(clean.mean()),
        "robust": {"2/255": float(attacked.mean())},
        "images": len(clean),
        "correct": {"clean": packed(clean), "2/255": packed(attacked)},
    } | more


def drawn(shares, images=400, seed=0, group=""):
    """Rows of arms by label, whose networks are right with a given chance on each image."""
    generator = np.random.default_rng(seed)
    return [
        row(arm, index, generator.random(images) < share, group)
        for arm, several in shares.items()
        for index, share in enumerate(several)
    ]


def test_p_values_are_students():
    assert p_value(VALUES) == pytest.approx(stats.ttest_1samp(VALUES, 0).pvalue, rel=1e-12)
    assert (p_value([0.0, 0.0]), p_value([0.1, 0.1])) == (1, 0)


def test_holm_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    generator = np.random.default_rng(1)
    for count in (1, 2, 7, 40):
        for values in (generator.random(count) ** 4, np.full(count, 0.03)):
            expected = multitest.multipletests(values, method="holm")[1]
            assert holm(values.tolist()) == pytest.approx(expected.tolist(), rel=1e-12)
    assert holm([]) == []


def test_seeds_needed_is_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power").TTestPower()
    for scale in (0.1, 0.3, 1.0, 4.0):
        values = [scale * value for value in VALUES]
        found = seeds_needed(values, 0.005)
        effect = 0.005 / np.std(values, ddof=1)
        enough, few = (power.power(effect, count, 0.05) for count in (found, found - 1))
        # Some versions of scipy have no value for it where the power is almost one.
        assert np.isnan(enough) or enough >= 0.8
        assert found == 2 or few < 0.8
    assert seeds_needed([0.01, 0.01], 0.005) == 2
    assert seeds_needed([1e-9, 0.0, 2e-9], 0.005) == 2
    with pytest.raises(ConfigurationError, match="above 0"):
        seeds_needed(VALUES, 0.0)


@pytest.mark.parametrize("effect", [0.2, 1.0, 3.0, 5.126, 20.0])
def test_the_power_grows_with_the_pairs_and_is_a_number(effect):
    found = [_power(count, effect, 0.05) for count in range(2, 60)]
    assert np.isfinite(found).all()
    assert (np.diff(found) > -1e-9).all()


def slow_bootstrap(differences, resamples, generator):
    """Draws single seeds and images, and takes the expanded percentiles."""
    seeds, images = differences.shape
    mean = differences.mean()
    rows = [differences[seed].mean() - mean for seed in range(seeds)]
    columns = [differences[:, image].mean() - mean for image in range(images)]
    rest = sum(
        (differences[seed, image] - mean - rows[seed] - columns[image]) ** 2
        for seed in range(seeds)
        for image in range(images)
    ) / ((seeds - 1) * (images - 1))
    variance = np.var(columns, ddof=1)
    columns = np.array(columns) * math.sqrt(max(1 - rest / seeds / variance, 0))
    means = [
        mean + np.mean(generator.choice(rows, seeds)) + np.mean(generator.choice(columns, images))
        for _ in range(resamples)
    ]
    far = stats.t.ppf(0.025, seeds - 1) * math.sqrt(seeds / (seeds - 1))
    return np.quantile(means, [stats.norm.cdf(far), stats.norm.cdf(-far)])


def test_the_bootstrap_is_its_slow_twin():
    generator = np.random.default_rng(2)
    chance = generator.random((8, 1)) * 0.3
    differences = (generator.random((8, 60)) < chance + 0.4 * (np.arange(60) < 30)).astype(np.int8)
    differences -= generator.random((8, 60)) < 0.2
    low, high = bootstrap(differences)
    slow = slow_bootstrap(differences, 10_000, np.random.default_rng(3))
    assert [low, high] == pytest.approx(slow.tolist(), abs=0.1 * (high - low))
    assert (low, high) == bootstrap(differences)
    assert (low, high) != bootstrap(differences, seed=1)
    alike = bootstrap(np.ones((3, 9), dtype=np.int8))
    assert alike == (1, 1)
    with pytest.raises(ConfigurationError, match="more seeds"):
        bootstrap(differences[:1])


def test_a_comparison_is_paired_by_seed_and_by_image():
    generator = np.random.default_rng(4)
    base = generator.random((6, 203)) < 0.6
    mine = base.copy()
    mine[:, :9] = 1  # the very images that the arm is better at
    mine[2, 100:104] = 0
    rows = [row("plain", seed, one) for seed, one in enumerate(base)]
    rows += [row("a", seed, one) for seed, one in reversed(list(enumerate(mine)))]
    rows += [row("a", 17, mine[0]), row("a", 0, 1 - mine[0], group="another")]
    found, other = compare_arms(rows, "plain", ["plain", "a"], [""], ["2/255"])
    differences = mine.mean(1) - base.mean(1)
    low, high = stats.t.interval(0.95, 5, differences.mean(), stats.sem(differences))
    assert (found["figure"], other["figure"]) == ("clean", "2/255")
    assert found["count"] == 6
    assert found["mean"] == pytest.approx(differences.mean())
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    expected = bootstrap(mine.astype(np.int8) - base.astype(np.int8))
    assert (found["bootstrap_low"], found["bootstrap_high"]) == expected
    assert found["p_holm"] == max(2 * min(found["p"], other["p"]), found["p"])
    assert other["mean"] != found["mean"]


def test_verdicts():
    noise = np.array([-0.002, 0.001, 0.002, -0.001, 0.0, 0.001])
    shares = {
        "plain": 0.6 + 10 * noise,
        "better": 0.7 + 11 * noise,
        "worse": 0.5 + 9 * noise,
        "equal": 0.6 + 10.5 * noise,
        "unclear": 0.6 - 10 * noise,
        "few": (0.7 + 11 * noise)[:4],
        "absent": [],
    }
    rows = [
        {"group": "", "arm": arm, "seed": seed, "clean": share, "robust": {}, "images": 9}
        for arm, several in shares.items()
        for seed, share in enumerate(several)
    ]
    found = compare_arms(rows, "plain", list(shares), [""], [])
    verdicts = {one["arm"]: one["verdict"] for one in found}
    few = {"few": "too few seeds"}  # and nothing of an arm without a run
    assert verdicts == {name: name for name in ("better", "worse", "equal", "unclear")} | few
    assert found[0]["bootstrap_low"] is None  # no images on record
    json.dumps(found, allow_nan=False)


def test_one_seed_has_a_difference_and_nothing_else():
    rows = drawn({"plain": [0.5], "a": [0.9]})
    clean, _ = compare_arms(rows, "plain", ["plain", "a"], [], ["2/255"])
    assert clean["mean"] == pytest.approx(rows[1]["clean"] - rows[0]["clean"])
    assert clean["verdict"] == "too few seeds"
    assert clean["low"] is None
    assert clean["seeds_for_half_point"] is None


def test_groups_are_compared_within_themselves():
    rows = drawn({"plain": [0.2] * 5, "a": [0.5] * 5}, group="one")
    rows += drawn({"plain": [0.8] * 5, "a": [0.5] * 5}, group="two")
    for groups in (["one", "two"], []):
        found = compare_arms(rows, "plain", ["plain", "a"], groups, [])
        assert [(one["group"], one["verdict"]) for one in found] == [
            ("one", "better"),
            ("two", "worse"),
        ]


def test_pairs_are_compared_too_and_count_in_holms_correction():
    rows = drawn({"plain": [0.2] * 5, "a": [0.5] * 5, "b": [0.8] * 5, "alone": [0.5]})
    found = compare_arms(rows, "plain", ["plain", "a", "b"], [""], [], [("b", "a"), ("a", "gone")])
    assert [(one["arm"], one["to"]) for one in found] == [
        ("a", "plain"),
        ("b", "plain"),
        ("b", "a"),
    ]
    shares = [[row["clean"] for row in rows if row["arm"] == arm] for arm in "ab"]
    assert found[2]["mean"] == pytest.approx(np.mean(shares[1]) - np.mean(shares[0]))
    assert max(one["p_holm"] / one["p"] for one in found) == pytest.approx(3)


def test_what_is_no_number_is_left_out():
    rows = drawn({"plain": [0.5] * 6, "a": [0.6] * 6})
    rows[0]["clean"] = float("nan")
    rows[7]["robust"] = {}
    clean, attacked = compare_arms(rows, "plain", ["a"], [""], ["2/255"])
    assert (clean["count"], attacked["count"]) == (5, 5)
    assert clean["bootstrap_low"] is not None
    json.dumps([clean, attacked], allow_nan=False)


def test_fewer_images_may_be_attacked_than_there_are():
    rows = drawn({"plain": [0.5] * 5, "a": [0.6] * 5})
    for one in rows:
        one["attacked"] = 40
        one["correct"]["2/255"] = packed(np.arange(40) % 2)
    assert compare_arms(rows, "plain", ["a"], [""], ["2/255"])[1]["bootstrap_low"] == 0
    rows[0]["attacked"] = 80
    with pytest.raises(RunError, match="not of 80 images"):
        compare_arms(rows, "plain", ["a"], [""], ["2/255"])


@pytest.mark.parametrize("text", ["", "AAAA", "no base64"])
def test_a_damaged_record_of_images_is_refused(text):
    rows = drawn({"plain": [0.5] * 2, "a": [0.6] * 2})
    rows[3]["correct"]["clean"] = text
    with pytest.raises(RunError, match=r"'a' with seed 1 had right \(clean\) is damaged"):
        compare_arms(rows, "plain", ["a"], [""], [])


def test_intervals_cover_and_equal_arms_are_seldom_told_apart(script):
    """A short form of `benchmarks/study_statistics.py`; standard errors are about 4 %."""
    simulated = script("study_statistics")
    generator = np.random.default_rng(0)
    for seeds in (5, 10):
        found = simulated.coverage(seeds, 0.3, 40, 300, generator)
        assert found["t, on these images"]["share"] > 0.85
        assert found["bootstrap, over all images"]["share"] > 0.85
    equal = simulated.equal_arms(5, 60, 300, generator)
    assert equal["one or more better or worse"]["share"] < 0.15
    assert equal["the same without Holm's correction"]["share"] > 0.15


def test_the_recorded_simulation_is_as_it_should_be():
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "study_statistics.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    for one in found["coverage"]:
        for name in ("t, on these images", "bootstrap, over all images"):
            assert one[name]["share"] > 0.93
    for one in found["equal_arms"]:
        rate = one["one or more better or worse"]
        assert rate["share"] - 2 * rate["standard_error"] < 0.05
