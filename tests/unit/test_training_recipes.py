"""What is usual for a data set: found by what is in the data, filled in, and said."""

import pytest
import yaml
from test_cli import parsed, train
from test_data_folders import CIFAR10
from test_data_sources import picture

from advreg import training
from advreg.cli import main
from advreg.errors import ConfigurationError
from advreg.training import Configuration, DataSettings, RunSettings, find_recipe, recipes, resolve
from advreg.training.configuration import read_yaml


@pytest.fixture
def tuned(monkeypatch):
    recipe = recipes.Recipe({"epsilon": 0.05, "sites": ["input"]}, "a study of ours")
    usual = recipes.DatasetRecipe("crop", 2, {"layerwise": (recipe,)})
    monkeypatch.setitem(recipes.RECIPES, "digits", usual)


def test_what_is_usual_is_used_and_its_source_is_said(tuned, tmp_path, capsys):
    assert train(tmp_path / "a", "--method.rms_interval", "2") == 0
    printed = capsys.readouterr().out
    assert "method.epsilon 0.05, method.sites ['input']: a study of ours." in printed
    assert "data.augment crop, data.padding 2: usual for digits." in printed
    text = (tmp_path / "a" / "config.yaml").read_text()
    assert "# method.epsilon: a study of ours\n" in text
    saved = yaml.safe_load(text)
    assert (saved["method"]["epsilon"], saved["method"]["sites"]) == (0.05, ["input"])
    assert (saved["data"]["augment"], saved["data"]["padding"]) == ("crop", 2)
    assert main(["train", "--out", str(tmp_path / "a"), "--resume"]) == 0
    assert "a study of ours" not in capsys.readouterr().out


def test_what_is_given_wins_and_settings_tuned_together_are_not_used_in_part(tuned, capsys):
    given = parsed("--method.sites", "blocks.*", "--data.augment", "none")
    found = resolve(given)
    assert found.method.settings["sites"] == ["blocks.*"]
    assert found.method.settings["epsilon"] == 0.1
    assert (found.data.augment, found.data.padding) == ("none", None)
    assert not found.origins


def test_a_recipe_s_part_of_the_data_goes_with_it_unless_the_user_chose_one(monkeypatch):
    views = {"view_epochs": 2, "view_block": 20}
    recipe = recipes.Recipe({"epsilon": 0.05}, "a study of ours", data=views)
    usual = recipes.DatasetRecipe("crop", 2, {"layerwise": (recipe,)})
    monkeypatch.setitem(recipes.RECIPES, "digits", usual)
    found = resolve(parsed())
    assert (found.data.view_epochs, found.data.view_block) == (2, 20)
    assert found.origins["data.view_block"] == "a study of ours"
    assert resolve(found) == found
    for given, wanted, epsilon in (
        (("--data.view_epochs", "3"), 3, 0.1),
        (("--method.epsilon", "0.3"), 1, 0.3),
        (("--epochs", "1"), 1, 0.1),
    ):
        found = resolve(parsed(*given))
        assert (found.data.view_epochs, found.data.view_block) == (wanted, None)
        assert found.method.settings["epsilon"] == epsilon  # nor the rest of it


def test_python_and_the_command_line_resolve_alike(tuned, tmp_path):
    assert train(tmp_path / "a") == 0
    data = DataSettings("digits", limit=40, validation=20)
    run = RunSettings(str(tmp_path / "b"), epochs=1, batch_size=20, tensorboard=False)
    training.train(Configuration(run, data), quiet=True)
    one, other = (read_yaml(tmp_path / name / "config.yaml") for name in "ab")
    assert one.pop("out") != other.pop("out")
    assert one == other


def test_a_renamed_copy_of_the_data_has_the_same_recipe(tmp_path):
    for label in CIFAR10:
        (tmp_path / "copy" / "train" / label).mkdir(parents=True)
        picture(0, (32, 32, 3)).save(tmp_path / "copy" / "train" / label / "0.png")
    found, named = (resolve(parsed("--data", str(name))) for name in (tmp_path / "copy", "cifar10"))
    assert found.method == named.method
    assert found.method.settings["epsilon"] == "8/255"
    assert (found.data.augment, found.data.padding) == ("crop_flip", 4)
    assert found.origins == named.origins


def test_the_most_particular_recipe_that_fits_is_found(monkeypatch):
    plain = recipes.Recipe({"epsilon": 0.2}, "a study")
    example = recipes.Recipe({"epsilon": 0.1}, "a study", when={"memory": "example"})
    usual = recipes.DatasetRecipe(methods={"layerwise": (plain, example)})
    monkeypatch.setitem(recipes.RECIPES, "digits", usual)
    assert find_recipe("digits", "layerwise", {}) is plain
    assert find_recipe("digits", "layerwise", {"memory": "example"}) is example
    assert find_recipe("digits", "layerwise", {"epsilon": 0.3}) is None
    assert find_recipe("digits", "standard", {}) is None
    assert find_recipe(None, "layerwise", {}) is None


def test_a_goal_takes_the_recipe_that_was_chosen_by_it_and_else_the_one_by_both(monkeypatch):
    both = recipes.Recipe({"epsilon": 0.2}, "a study")
    robust = recipes.Recipe({"epsilon": 0.3, "memory": "example"}, "a study", goal="robustness")
    usual = recipes.DatasetRecipe(methods={"layerwise": (robust, both)})
    monkeypatch.setitem(recipes.RECIPES, "digits", usual)
    assert find_recipe("digits", "layerwise", {}) is both
    assert find_recipe("digits", "layerwise", {}, "robustness") is robust
    assert find_recipe("digits", "layerwise", {}, "accuracy") is both
    assert find_recipe("digits", "layerwise", {"memory": "slot"}, "robustness") is both
    with pytest.raises(ConfigurationError, match="goal is 'speed'"):
        find_recipe("digits", "layerwise", {}, "speed")


def test_the_command_line_says_whether_a_goal_found_a_recipe(tmp_path, capsys):
    def said(method, goal):
        out = tmp_path / f"{method}-{goal}"
        options = ["--data", "digits", "--limit", "40", "--epochs", "1", "--out", str(out)]
        assert main(["train", "--method", method, "--goal", goal, *options]) == 0
        return capsys.readouterr().out

    found = said("layerwise", "robustness")
    assert "method.memory example, method.epsilon 0.2: by robustness, tuned on" in found
    assert "--goal accuracy changed nothing: no recipe for layerwise" in said(
        "layerwise", "accuracy"
    )
    assert "mixup is not tuned on digits" in said("mixup", "accuracy")
    begun = ["--out", str(tmp_path / "mixup-accuracy"), "--resume"]
    assert main(["train", *begun, "--goal", "accuracy"]) == 2
    assert "leave out --goal" in capsys.readouterr().err
