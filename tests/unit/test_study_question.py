"""One network, one question: what there is time for, and what is recommended."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from study_results import study_results

import advreg
from advreg.cli.train import parse
from advreg.errors import ConfigurationError, RunError
from advreg.methods import build_method
from advreg.study import compare, question, tuning
from advreg.study.collecting import Collected
from advreg.study.files import write_json
from advreg.study.pool import Ended
from advreg.study.question import lowered, plan_effort
from advreg.study.reading import study_from
from advreg.study.recommendation import Effort, Question, code, recommend
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
    assert "tuned with 6 runs, and all were trained for 12 epochs" in found["sentences"][2]
    assert found["code"] == "advreg.LayerwiseAdversary(epsilon=0.02).attach(model)"
    given, *_ = parse(found["command"].split()[2:])
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
        line = code(study(), arm, {})
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


@pytest.fixture
def busy(monkeypatch):
    """A machine that is `slow` times slower than it seemed, and whose time is counted, not spent.

    Its only worker trains what it has time for.
    """
    clock = SimpleNamespace(now=1000.0, slow=10.0)

    class Busy:
        places = "one at a time"
        at_once = 1

        def __init__(self, workers):
            """Has one, whatever is asked."""

        def __call__(self, runs, out, watch):
            for index, run in enumerate(runs):
                folder = run.folder(out) / "run"
                folder.mkdir(parents=True, exist_ok=True)
                for _ in range(run.configuration.run.epochs):
                    clock.now += clock.slow * EPOCH / len(question.ARMS)
                    if clock.now > watch.until:
                        clock.now = watch.until + 0.01
                        return [None] * len(runs), False
                    with (folder / "metrics.jsonl").open("a") as metrics:
                        metrics.write("{}\n")
                write_json(run.folder(out) / "row.json", row(run))
                watch.ended(index, Ended("done"))
            return [Ended("done")] * len(runs), False

    def row(run):
        made = study_results(arms=1, seeds=1, epsilons=("2/255",), epochs=2)["rows"][0]
        which = {"id": run.id, "group": run.group, "arm": run.arm, "seed": run.seed}
        return {**made, **which, "evaluation_seconds": 1.0}

    monkeypatch.setattr(question, "Here", Busy)
    monkeypatch.setattr(question, "_costs", lambda study, patience: (EPOCH, 0.0))
    monkeypatch.setattr(compare, "write_study", lambda path: path)  # takes its time
    for module in (question, compare, tuning):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


EPOCH = 1.0
"""Seconds of an epoch of every way, on a machine that does nothing else."""


@pytest.mark.parametrize(("slow", "minutes", "seeds"), [(1.0, 6, 5), (10.0, 6, 3), (40.0, 6, 1)])
def test_minutes_are_kept_on_a_machine_that_is_slower_than_it_seemed(
    busy, slow, minutes, seeds, tmp_path
):
    busy.slow, began = slow, busy.now
    found = question.answer(Question("convnet", "digits", minutes), tmp_path)
    assert busy.now - began <= 60 * minutes + 1
    results = json.loads((tmp_path / "results.json").read_text())
    counts = Counter(row["arm"] for row in results["rows"])
    assert set(counts) == set(question.ARMS)
    assert len(set(counts.values())) == 1
    assert counts["plain"] >= min(seeds, 3)
    assert len(found["sentences"]) == 3


def test_an_answer_that_had_no_time_is_planned_again_with_more(busy, tmp_path):
    busy.slow = 3000.0
    with pytest.raises(RunError, match="in 1 minutes; ask again with more --minutes"):
        question.answer(Question("convnet", "digits", 1.0), tmp_path)
    busy.slow = 1.0
    found = question.answer(Question("convnet", "digits", 5.0), tmp_path)
    assert "were trained for 30 epochs" in found["sentences"][2]


def test_one_seed_has_no_interval():
    found = recommend(ASKED, study(), collected(0.04, seeds=1), Effort(12, 2, 1, tuned=0))
    assert found["arm"] == "plain"
    assert "for one seed, which says nothing" in found["sentences"][1]
    assert "no time for tuning, and all were trained for 12 epochs" in found["sentences"][2]


def test_what_tuning_leaves_time_for():
    planned = Effort(20, 6, 5)
    assert lowered(planned, epoch=1.0, measuring=5.0, seconds=160.0) == planned
    assert lowered(planned, epoch=2.0, measuring=5.0, seconds=170.0) == Effort(20, 6, 3)
    assert lowered(planned, epoch=10.0, measuring=50.0, seconds=300.0) == Effort(3, 6, 3)
    assert lowered(planned, epoch=100.0, measuring=50.0, seconds=9.0) == Effort(1, 6, 3)
