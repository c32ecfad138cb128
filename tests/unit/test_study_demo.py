import json
from functools import partial

import pytest

from advreg.errors import RunError
from advreg.report import read_results
from advreg.study import demo, digits
from advreg.study.plan import Arm, Failure, Outcome
from advreg.training import Interrupted
from advreg.training.recipes import RECIPES, DatasetRecipe, Recipe

TINY = digits.Scale(
    epochs=2, train_images=64, test_images=20, epsilons=(0.1, 0.2), steps=2, cost_rounds=20
)


@pytest.mark.full
def test_a_run_is_the_same_again_and_another_with_another_seed():
    arm = digits.demo_arms()[5]
    work = partial(digits.train_and_attack, arm, scale=TINY)
    first, again, other = work(1000), work(1000), work(1001)
    for row in (first, again, other):
        assert row.pop("seconds") > 0
    assert first == again
    assert first["training"] != other["training"]
    assert set(first["pgd"]) == {"0.1", "0.2"}
    assert len(first["training"]["train_loss"]) == 2
    assert first["test_images"] == 20


def test_arms_of_one_seed_start_from_the_same_network_and_images():
    plain, dropout, *_ = digits.demo_arms()
    settings = [digits.configuration(arm, 7, TINY, "unused") for arm in (plain, dropout)]
    assert settings[0].run == settings[1].run
    assert settings[0].data == settings[1].data
    assert settings[0].data.seed == settings[0].run.seed == 7


def test_tuned_settings_fill_in_and_never_move_what_the_demo_is_about(monkeypatch):
    tuned = {
        "fgsm": (Recipe({"epsilon": 0.15}, "a study"),),
        "layerwise": (
            Recipe({"epsilon": 9.0, "pair": True}, "slot study"),
            Recipe({"epsilon": 0.15, "step_size": 0.1}, "example study", {"memory": "example"}),
        ),
    }
    monkeypatch.setitem(RECIPES, "digits", DatasetRecipe(methods=tuned))
    arms = {arm.label: arm for arm in digits.demo_arms()}
    assert arms[digits.FGSM].settings == {"epsilon": 0.15}
    assert arms[digits.FGSM].source == "a study"
    at_input = {"sites": ["input"], "epsilon": 0.2}
    assert arms[digits.SLOT].settings == at_input
    assert arms[digits.EXAMPLE].settings == {"memory": "example", "epsilon": 0.15, "step_size": 0.1}
    assert arms[digits.RANDOM_INPUT].settings == {**at_input, "direction": "random"}


def row(arm, seed, **changes):
    figures = {"0.1": 0.5 + 0.01 * seed, "0.2": 0.2}
    if changes.get("scale", TINY).epsilons != TINY.epsilons:
        figures = {str(epsilon): 0.5 for epsilon in changes["scale"].epsilons}
    return {
        "clean": 0.9 + 0.01 * seed,
        "fgsm": figures,
        "pgd": figures,
        "training": {"train_loss": [1.0, 0.5], "validation_accuracy": [0.2, 0.9]},
        "warnings": [],
        "test_images": 20,
        "seconds": 1.0,
    }


@pytest.fixture
def ran(monkeypatch):
    """The demo with its runs made up; a test may change the outcome."""
    outcome = {"failures": [], "interrupted": False, "lost": lambda arm, seed: False}

    def run_plan(plan, work, workers, progress):
        rows = [
            {"arm": arm.label, "seed": seed, **row(arm, seed, **work.keywords)}
            for arm, seed in plan.runs()
            if not outcome["lost"](arm, seed)
        ]
        return Outcome(rows, outcome["failures"], outcome["interrupted"])

    monkeypatch.setattr(demo, "run_plan", run_plan)
    monkeypatch.setattr(demo.digits, "cost_of_steps", lambda arms, scale: {})
    return outcome


def test_the_demo_writes_results_and_report(ran, tmp_path, capsys):
    report = demo.run_demo(tmp_path / "demo", seeds=3, workers=1)
    assert report.read_text().startswith("<!DOCTYPE html>")
    results = read_results(tmp_path / "demo" / "results.json")
    assert results["seeds"] == [0, 1, 2]
    assert len(results["rows"]) == 21
    assert results["settings"]["attacks"]["test_images"] == 20
    assert {"advreg", "torch", "processor", "date", "cores"} <= results["environment"].keys()
    said = capsys.readouterr().out
    assert "Did not hold. Slot memory is more robust" in said
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.full
def test_results_are_replaced_only_on_request(ran, tmp_path):
    demo.run_demo(tmp_path, seeds=2)
    before = (tmp_path / "results.json").read_text()
    with pytest.raises(RunError, match="is a file"):
        demo.run_demo(tmp_path / "results.json")
    with pytest.raises(RunError, match="--overwrite"):
        demo.run_demo(tmp_path, seeds=3)
    assert (tmp_path / "results.json").read_text() == before
    demo.run_demo(tmp_path, seeds=3, overwrite=True)
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 21


def test_an_interrupted_demo_keeps_its_runs_and_says_so(ran, tmp_path):
    ran |= {"interrupted": True, "lost": lambda arm, seed: (arm.label, seed) != (digits.PLAIN, 0)}
    with pytest.raises(Interrupted, match="1 of 14 runs are kept"):
        demo.run_demo(tmp_path, seeds=2)
    assert len(read_results(tmp_path / "results.json")["rows"]) == 1
    assert "1 of 14 runs" in (tmp_path / "report.html").read_text()


def test_a_failed_arm_is_in_the_report(ran, tmp_path, capsys):
    ran["lost"] = lambda arm, seed: arm.label == digits.SLOT
    ran["failures"] = [Failure(digits.SLOT, 0, "RunError: it diverged.")]
    demo.run_demo(tmp_path, seeds=2)
    assert "it diverged" in (tmp_path / "report.html").read_text()
    assert "it diverged" in capsys.readouterr().out


def test_nothing_is_written_when_nothing_ran(ran, tmp_path):
    ran |= {"lost": lambda arm, seed: True, "failures": [Failure("Plain", 0, "DataError: gone.")]}
    with pytest.raises(RunError, match=r"Every run failed.*gone"):
        demo.run_demo(tmp_path, seeds=2)
    assert not (tmp_path / "results.json").exists()
    ran |= {"failures": [], "interrupted": True}
    with pytest.raises(Interrupted, match="before a run was finished"):
        demo.run_demo(tmp_path, seeds=2)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.full
def test_an_arm_that_cannot_be_set_up_spoils_no_other_time():
    broken = Arm("broken", "dropout", {"p": 2.0})
    cost = digits.cost_of_steps((digits.demo_arms()[0], broken), TINY)
    assert list(cost) == [digits.PLAIN]
    assert cost[digits.PLAIN].median == 1


@pytest.mark.full
def test_the_quick_demo_runs_for_real(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "QUICK", TINY)
    demo.run_demo(tmp_path, seeds=2, workers=2, quick=True)
    results = read_results(tmp_path / "results.json")
    assert len(results["rows"]) == 14
    assert len(results["cost"]) == 7
    assert "shortened demo" in (tmp_path / "report.html").read_text()
