"""Equal tuning by successive halving."""

import json

import pytest
from test_study_compare import STUDY, study

from advreg.errors import ConfigurationError
from advreg.study import tuning
from advreg.study.compare import plan
from advreg.study.definition import nested
from advreg.study.files import write_json
from advreg.study.reading import read_study

TUNE = {
    "common": {"optimizer.learning_rate": [0.01, 0.1]},
    "arms": {"hidden": {"method.epsilon": [0.1, 0.2, 0.3]}},
}


@pytest.fixture
def scored(monkeypatch):
    """Stands for training: the larger the learning rate and the budget, the better."""
    trained = []

    def run_study(runs, out, **running):
        for run in runs:
            trained.append(run)
            rate = run.configuration.optimizer.learning_rate
            figure = rate + run.configuration.method.settings.get("epsilon", 0.0)
            write(run.folder(out), figure)

    def write(folder, figure):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "row.json", {"clean": figure, "robust": {"8/255": 0.0}})

    monkeypatch.setattr(tuning, "run_study", run_study)
    return trained


@pytest.mark.parametrize(
    ("budget", "rounds"), [(2, [2]), (5, [2]), (6, [4, 2]), (14, [8, 4, 2]), (29, [8, 4, 2])]
)
def test_rounds_stay_within_the_budget(budget, rounds):
    assert tuning.rounds_of(budget) == rounds
    assert sum(rounds) <= budget


def test_a_budget_of_one_is_refused():
    with pytest.raises(ConfigurationError, match="at least 2"):
        tuning.rounds_of(1)


def test_every_arm_has_as_many_runs_on_seeds_of_their_own(scored, tmp_path):
    base = {**STUDY["base"], "epochs": 8}
    found, record = tuning.tune(study(tune=TUNE, base=base), tmp_path, 14)
    for arm in ("plain", "hidden"):
        runs = [run for run in scored if run.arm == arm]
        assert [run.configuration.run.epochs for run in runs] == [2] * 8 + [4] * 4 + [8] * 2
        assert min(run.seed for run in runs) == tuning.FIRST_SEED
        assert {run.evaluation.split for run in runs} == {"validation"}
    assert found.tuned["all"]["plain"] == {"optimizer.learning_rate": 0.1}
    tried = [line for line in record if line["arm"] == "hidden" and line["epochs"] == 2]
    best = max(
        sum(line["settings"].values()) for line in tried
    )  # the stand-in's score, whatever the shuffle drew
    assert sum(found.tuned["all"]["hidden"].values()) == best
    assert [line["kept"] for line in tried].count(True) == 4
    assert json.loads((tmp_path / "tuning.json").read_text()) == record


def test_what_was_found_is_a_study_again(scored, tmp_path):
    found, _ = tuning.tune(study(tune=TUNE), tmp_path, 2)
    again = read_study(tmp_path / "tuned.yaml")
    assert again.tuned == found.tuned
    before = {run.id for run in plan(study(tune=TUNE))}
    runs = plan(again)
    rates = {run.arm: run.configuration.optimizer.learning_rate for run in runs}
    assert rates["plain"] == found.tuned["all"]["plain"]["optimizer.learning_rate"]
    assert {run.id for run in runs} != before


@pytest.mark.parametrize("tune", [{}, {"arms": {"other": {}}}, {"arm": {}}])
def test_a_study_with_nothing_to_try_is_refused(tune, tmp_path):
    with pytest.raises(ConfigurationError, match="give settings to try"):
        tuning.tune(study(tune=tune), tmp_path, 6)


def test_values_to_try_are_lists():
    with pytest.raises(ConfigurationError, match="give a list"):
        tuning.candidates(study(tune={"common": {"method.p": 0.1}}), "all", "plain", 2)


def test_dotted_settings_are_parts():
    assert nested({"method.epsilon": 1, "method.p": 2, "epochs": 3}) == {
        "method": {"epsilon": 1, "p": 2},
        "epochs": 3,
    }
    assert nested({"method.layerwise.epsilon": 0.1, "method": "layerwise+mixup"}) == {
        "method": {"name": "layerwise+mixup", "layerwise": {"epsilon": 0.1}}
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({1: 2}, "1 names no setting"),
        ({"method.epsilon": 0.1, "method.epsilon.stem": 0.2}, "inside of epsilon, which is 0.1"),
    ],
)
def test_names_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        nested(settings)


@pytest.mark.parametrize("arm", ["plain", "hidden"])
def test_a_few_candidates_try_every_value(arm):
    grid = {"method.p": [0.1, 0.2, 0.3, 0.4], "optimizer.weight_decay": [0.0, 0.1, 0.2]}
    few = tuning.candidates(study(tune={"common": grid}), "all", arm, 4)
    for name, values in grid.items():
        assert {each.settings[name] for each in few} == set(values)
    whole = tuning.candidates(study(tune={"common": grid}), "all", arm, 14)
    assert len({(*each.settings.values(), each.seed) for each in whole}) == 14
    assert [each.seed for each in whole] == [tuning.FIRST_SEED] * 12 + [tuning.FIRST_SEED + 1] * 2


def test_a_run_that_fails_scores_nothing(tmp_path):
    one = plan(study())[0]
    with pytest.raises(ConfigurationError, match="another process"):
        tuning._score(one, tmp_path, study())
    one.folder(tmp_path).mkdir(parents=True)
    write_json(one.folder(tmp_path) / "failure.json", {"reason": "diverged"})
    assert tuning._score(one, tmp_path, study()) == 0.0


def test_tuning_that_is_late_chooses_by_what_every_arm_has_finished(tmp_path, monkeypatch):
    """Of four candidates an arm, all have finished two, and the plain one a third."""

    def run_study(runs, out, until, **running):
        for run in runs[:5]:
            figure = run.configuration.optimizer.learning_rate
            (run.folder(out)).mkdir(parents=True, exist_ok=True)
            write_json(run.folder(out) / "row.json", {"clean": figure, "robust": {}})

    monkeypatch.setattr(tuning, "run_study", run_study)
    asked = study(tune=TUNE)
    found, record = tuning.tune(asked, tmp_path, 6, until=0.0)
    assert [line["arm"] for line in record] == ["plain", "hidden"] * 2
    for arm, settings in found.tuned["all"].items():
        tried = [line for line in record if line["arm"] == arm]
        best = max(tried, key=lambda line: line["accuracy"])
        assert settings == best["settings"]
        assert [line["kept"] for line in tried].count(True) == 1
    monkeypatch.setattr(tuning, "run_study", lambda *given, **running: None)
    (tmp_path / "none").mkdir()
    found, record = tuning.tune(asked, tmp_path / "none", 6, until=0.0)
    assert found.tuned == {}
    assert record == []
    assert read_study(tmp_path / "none" / "tuned.yaml").tuned == {}
