"""One network, one question: what there is time for, and what is recommended."""

from pathlib import Path

import pytest

import advreg
from advreg.cli.train import parse
from advreg.errors import ConfigurationError, RunError
from advreg.methods import build_method
from advreg.study import question
from advreg.study.collecting import Collected
from advreg.study.definition import study_from
from advreg.study.question import Effort, Question, plan_effort, recommend
from advreg.study.runs import cells

ASKED = Question("convnet", "digits", 5.0)
BEST = "layerwise, slot memory"


def study(goal="accuracy", **changes):
    return study_from(question._values(Question("convnet", "digits", 5.0, goal)) | changes)


def collected(gain, seeds=5, spread=0.002, robust=0.3):
    rows = []
    for arm in question.ARMS:
        for seed in range(seeds):
            own = gain if arm == BEST else 0.0
            clean = 0.8 + own + spread * (seed - 2) * (arm == BEST)
            rows.append(
                {
                    "group": "all",
                    "arm": arm,
                    "seed": seed,
                    "clean": clean,
                    "robust": {"2/255": robust + own},
                    "step_seconds": 0.03 if arm == BEST else 0.02,
                }
            )
    return Collected(Path("results.json"), rows, [], [])


def test_a_gain_that_is_shown_is_recommended_with_its_interval():
    tuned = study(tuned={"all": {BEST: {"method.epsilon": 0.02, "optimizer.learning_rate": 0.05}}})
    found = recommend(ASKED, tuned, collected(0.04), Effort(12, 6, 5))
    assert found["arm"] == BEST
    assert found["sentences"][0] == (
        "Train with layerwise, slot memory: over 5 seeds its accuracy is 4.0 points above plain"
        " training's (84.0 % against 80.0 %)."
    )
    assert "is +3.4 to +4.6 points." in found["sentences"][1]  # t of 4 at 0.05/8, by hand 4.315
    assert "takes 1.50 times plain" in found["sentences"][2]
    assert "tuned with 6 runs and trained for 12 epochs" in found["sentences"][2]
    assert found["code"] == "advreg.LayerwiseAdversary(epsilon=0.02).attach(model)"
    given, _ = parse(found["command"].split()[2:])
    assert given.method.settings == {"epsilon": 0.02}
    assert given.optimizer.learning_rate == 0.05


@pytest.mark.parametrize(
    ("gain", "seeds", "spread"), [(0.04, 3, 0.002), (0.01, 5, 0.03), (-0.02, 5, 0.002)]
)
def test_what_is_not_shown_is_not_recommended(gain, seeds, spread):
    found = recommend(ASKED, study(), collected(gain, seeds, spread), Effort(12, 2, seeds))
    assert found["arm"] == "plain"
    assert found["sentences"][0].startswith("Keep plain training: none of 4 other ways")
    assert ("too few for a verdict" in found["sentences"][1]) == (seeds < 5)
    assert found["code"].startswith("#")


def test_the_goal_decides_which_figure_counts():
    rows = collected(0.0, robust=0.2)
    for row in rows.rows:
        if row["arm"] == "FGSM training":
            row["robust"] = {"2/255": 0.5 + row["seed"] / 1000}
            row["clean"] = 0.7
    found = recommend(ASKED, study("robustness"), rows, Effort(12, 6, 5))
    assert found["arm"] == "FGSM training"
    assert "accuracy under PGD at 2/255 is 30.2 points above" in found["sentences"][0]
    assert "its accuracy differs by -10.0 points" in found["sentences"][2]
    assert found["code"] == "method = advreg.methods.build_method(\"fgsm\", epsilon='4/255')"


def test_the_lines_to_paste_run():
    for arm in question.ARMS:
        line = question.code(study(), arm, {})
        model = advreg.models.build_model("convnet", 10, 1, 8)
        names = {"advreg": advreg, "model": model}
        exec(line, names)
        if "method" in names:
            assert names["method"] == build_method(names["method"].name, **_settings(line))


def _settings(line):
    return eval(f"dict({line.partition(', ')[2]}")


def test_nothing_to_compare_is_a_sentence():
    with pytest.raises(RunError, match="Too few runs"):
        recommend(ASKED, study(), Collected(Path("x"), [], [], []), Effort(1, 2, 3))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1e6, Effort(30, 6, 5)),
        (1370, Effort(8, 6, 5)),
        (1000, Effort(13, 2, 3)),
        (1, Effort(1, 2, 3)),
    ],
)
def test_effort_fits_into_the_time(seconds, expected):
    # 0.8 * 1370 - 11 * 40 over 9 * 9 is 8.1; 0.8 * 1000 - 5 * 40 over 5 * 9 is 13.3.
    assert plan_effort(epoch=9.0, measuring=40.0, seconds=seconds) == expected


def test_every_way_has_something_to_try_and_can_be_built():
    asked = study()
    assert {cell.arm for cell in cells(asked)} == set(question.ARMS)
    assert set(asked.tune["arms"]) < set(asked.arms)


def test_minutes_are_some():
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="minutes"):
            Question("convnet", "digits", minutes)
