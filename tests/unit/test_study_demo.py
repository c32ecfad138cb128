import json

import pytest

from advreg.errors import ConfigurationError, RunError
from advreg.study import demo
from advreg.study.budget import STEPS
from advreg.study.compare import plan


@pytest.fixture
def tiny(monkeypatch):
    """The quick demo, quicker."""
    whole = demo.demo_study

    def shortened(*options):
        study = whole(*options)
        left_out = ("Dropout", "Random, hidden", "Random, input", "Slot memory")
        changes = {
            "base": {**study.base, "epochs": 1, "data": {"name": "digits", "limit": 64}},
            "arms": {label: arm for label, arm in study.arms.items() if label not in left_out},
            "pairs": [["Example memory", "FGSM training"]],
            "evaluation": {"images": 20, "epsilons": [0.1], "steps": 2},
        }
        return demo.study_from({**study.text, **changes}, study.size)

    monkeypatch.setattr(demo, "demo_study", shortened)


def rows(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


def test_the_memories_and_their_rivals_have_the_budgets_that_the_text_says():
    arms = {run.arm: run.configuration.method for run in plan(demo.demo_study(1))}
    assert arms["FGSM training"].settings["epsilon"] == 0.2
    at_input = {"sites": ["input"], "epsilon": 0.2, "memory": "slot"}
    assert arms["Slot memory"].settings.items() >= at_input.items()
    assert arms["Random, input"].settings.items() >= {**at_input, "direction": "random"}.items()
    example = arms["Example memory"].settings
    assert (example["memory"], example["epsilon"]) == ("example", 0.2)


def test_arms_of_one_seed_start_from_the_same_network_and_images():
    runs = plan(demo.demo_study(2))
    seeds = {(run.seed, run.configuration.run.seed, run.configuration.data.seed) for run in runs}
    assert seeds == {(0, 0, 0), (1, 1, 1)}
    assert len({run.configuration.model for run in runs}) == 1


def test_a_further_method_is_an_arm_with_its_recipe():
    study = demo.demo_study(2, quick=True, methods=["sam", "sam"])
    assert list(study.arms)[-2:] == ["Example memory", "sam"]
    assert (study.size, study.seeds) == ("quick", (0, 1))
    with pytest.raises(ConfigurationError, match="nothing"):
        demo.demo_study(methods=["nothing"])


@pytest.mark.full
def test_the_demo_runs_for_real_and_again_only_on_request(tiny, tmp_path, capsys):
    page = demo.run_demo(tmp_path, seeds=2, workers=1, quick=True)
    assert page.read_text().startswith("<!DOCTYPE html>")
    first = rows(tmp_path)
    assert len(first) == 6
    assert len(json.loads((tmp_path / STEPS).read_text())) == 3
    said = capsys.readouterr().out
    assert "6 of 6 runs to do" in said
    assert "Against FGSM training, Example memory has" in " ".join(said.split())
    demo.run_demo(tmp_path, seeds=2, workers=1, quick=True)
    assert "0 of 6 runs to do" in capsys.readouterr().out
    kept = tmp_path / "runs" / "mine"
    kept.mkdir()
    demo.run_demo(tmp_path, seeds=2, workers=1, quick=True, overwrite=True)
    assert "6 of 6 runs to do" in capsys.readouterr().out
    assert kept.exists()
    for one, again in zip(first, rows(tmp_path), strict=True):
        assert (one["correct"], one["nll"]) == (again["correct"], again["nll"])


@pytest.fixture
def raises(tmp_path, monkeypatch):
    """The name of a method that cannot train."""
    (tmp_path / "raises.py").write_text(
        "from advreg.methods import Standard\n\n\n"
        "class Raises(Standard):\n"
        "    name = 'raises'\n\n"
        "    def step(self, *arguments):\n"
        "        raise ValueError('a mistake of <mine>')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "raises:Raises"


@pytest.mark.full
def test_a_method_that_fails_is_on_the_page_and_spoils_no_other_time(tiny, tmp_path, raises):
    page = demo.run_demo(tmp_path / "demo", 2, 1, quick=True, methods=[raises])
    assert "ValueError: a mistake of &lt;mine&gt;" in page.read_text()
    times = json.loads((tmp_path / "demo" / STEPS).read_text())
    assert times["all: raises:Raises"] is None
    assert times["all: FGSM training"]["median"] > 1


@pytest.mark.full
def test_there_is_no_page_of_nothing(tmp_path, raises, monkeypatch):
    values = {"base": {"data": "digits"}, "arms": {"Plain": {"method": raises}}, "seeds": 2}
    monkeypatch.setattr(demo, "demo_study", lambda *options: demo.study_from(values))
    with pytest.raises(RunError, match=r"No run of the study in .* first one with ValueError"):
        demo.run_demo(tmp_path / "demo", seeds=2, workers=1)
    assert not (tmp_path / "demo" / "study.html").exists()
