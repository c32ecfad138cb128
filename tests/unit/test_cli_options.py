"""Every option of every command: without a value, with an empty one, with a wrong one."""

import io
import json
import re

import pytest
import yaml
from rich.console import Console
from test_cli import TINY, mistake, train

from advreg.cli import bench, demo, evaluate, main, sites
from advreg.cli.train import build_parser as train_parser
from advreg.errors import ConfigurationError
from advreg.report import print_bench
from advreg.training import RunFolder

PARSERS = {
    "bench": bench.build_parser,
    "demo": demo.build_parser,
    "evaluate": evaluate.build_parser,
    "sites": sites.build_parser,
    "train layerwise": lambda: train_parser("layerwise"),
    "train previous_fgsm": lambda: train_parser("previous_fgsm"),
}
"""Of the methods, two that have every kind of setting."""
ANY_TEXT = ("--out",)
"""What takes any text, so that none is wrong."""


def options(command, parser):
    """The type of each option that takes a value; of every method but one, its own settings."""
    types = {
        name: getattr(action, "_typehint", None)
        for name, action in parser._option_string_actions.items()
        if action.nargs != 0
    }
    if command.startswith("train") and command != "train layerwise":
        types = {name: hint for name, hint in types.items() if name.startswith("--method.")}
    return types


def arguments(command, run):
    name, _, method = command.partition(" ")
    if name == "train":
        return [name, *TINY, "--out", str(run / "new"), "--method", method]
    return [name, str(run)] if name == "evaluate" else [name]


@pytest.mark.parametrize("command", PARSERS)
def test_an_option_that_has_no_value_or_a_wrong_one_is_a_sentence(
    command, finished, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    parser = PARSERS[command]()
    found = options(command, parser)
    for option, hint in found.items():
        missing = [[f"{option}="], [option, ""], [option, " "]]
        if "bool" not in str(hint):  # a switch alone is true
            missing += [[option], [option, "--help"]]
        for given in missing:
            with pytest.raises(ConfigurationError, match=rf"{re.escape(option)} has no value"):
                parser.read(given)
        if option not in ANY_TEXT:
            said = mistake(capsys, *arguments(command, finished), option, "no/such:thing[/x]")
            assert "no/such:thing[/x]" in said
    assert not (finished / "new").exists()


def test_the_program_says_that_a_value_is_missing(capsys):
    for command, option in (
        ("bench", "--methods"),
        ("sites", "--sites"),
        ("train", "--schedule.milestones"),
        ("train", "--config"),
        ("train", "--method"),
        ("train", "--method.sites+"),
        ("train", "--out"),
    ):
        for given in ([option], [option, ","], [f"{option}="], [option, "--seed", "1"]):
            assert "has no value" in mistake(capsys, command, *given)


def test_a_files_values_are_read_like_options(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    for text, words in (
        ("out: 2020-01-01\nepochs: 2020-01-01", "epochs"),
        ("epochs: {a: {b: [1, 2]}}", "epochs"),
        ("method: {epsilon: [0.1]}", "epsilon"),
        ("method: [fgsm]", "method"),
        (f"method: {'{a: ' * 3000}1{'}' * 3000}", "nested more than"),
    ):
        path.write_text(text)
        said = mistake(capsys, "train", "--config", str(path), "--out", str(tmp_path / "run"))
        assert words in said


OWN = """
from dataclasses import dataclass
from advreg.methods import Standard

print("imported")

@dataclass
class Mine(Standard):
    \"\"\"Plain training.

    Args:
        strength: Of nothing.
    \"\"\"

    name = "mine"
    strength: float = 0.5
"""


@pytest.fixture
def own(tmp_path, monkeypatch, request):
    """A module of the user's in the current folder, and its method's name."""
    module = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return f"{module}:Mine"


def test_a_method_of_ones_own_is_trained_with_its_options(own, tmp_path, capsys):
    out = tmp_path / "my run"
    assert train(out, "--method", own, "--method.strength", "0.25") == 0
    resume = f"advreg train --out '{out}' --resume --method {own}"
    assert RunFolder(out).resume_command() == resume
    assert f"next: advreg evaluate '{out}'" in capsys.readouterr().out
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["method"] == {"name": own, "strength": 0.25}
    assert main(["evaluate", str(out), "--limit", "20", "--steps", "1"]) == 0
    capsys.readouterr()
    assert "--method.strength" in mistake(
        capsys, "train", *TINY, "--out", "x", "--method", own, "--method.strength", "much"
    )
    assert "no setting 'power'" in mistake(
        capsys, "train", *TINY, "--out", "x", "--method", own, "--method.power", "1"
    )
    main(["train", "--method", own, "--help"])
    assert "Of nothing" in capsys.readouterr().out


def test_a_configuration_does_not_run_code_that_the_command_line_does_not_name(
    own, tmp_path, capsys
):
    text = f"out: {tmp_path / 'run'}\nmethod: {{name: '{own}'}}\nepochs: 1\n"
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "c.yaml", tmp_path / "run" / "config.yaml"):
        path.write_text(text)
    for options in (["--config", "c.yaml"], ["--out", "run", "--resume"]):
        said = mistake(capsys, "train", *options)  # prints nothing: it was not imported
        assert f"add --method {own}" in said
    assert main(["train", *TINY, "--out", "a", "--method", own]) == 0
    assert "imported" in capsys.readouterr().out
    assert own in mistake(capsys, "train", "--out", "a", "--resume")
    assert main(["train", "--out", "a", "--resume", "--method", own]) == 0


def test_a_method_of_ones_own_is_measured_and_compared(own, tmp_path, capsys, monkeypatch):
    tiny = ["--model", "convnet", "--batch_size", "2", "--image_size", "8", "--in_channels", "1"]
    assert main(["bench", *tiny, "--threads", "1", "--methods", own, "--out", "b"]) == 0
    rows = json.loads((tmp_path / "b" / "bench.json").read_text())["rows"]
    assert [row["label"] for row in rows] == ["standard", own]
    planned = []
    monkeypatch.setattr(
        "advreg.study.demo.run_study", lambda runs, *rest, **named: planned.append(runs)
    )
    monkeypatch.setattr("advreg.study.compare.step_times", lambda *given: {})
    monkeypatch.setattr("advreg.study.demo.finish", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["demo", "--methods", own, "--seeds", "2", "--out", "d"])
    assert [run.configuration.method.name for run in planned[0]].count(own) == 2
    assert "nothing" in mistake(capsys, "demo", "--methods", "nothing", "--out", "e")


def test_names_with_markup_are_printed_as_they_are(tmp_path, capsys):
    out = tmp_path / "[red]name[" / "x]"
    assert train(out) == 0
    assert main(["evaluate", str(out), "--limit", "20", "--steps", "1"]) == 0
    printed = "".join(capsys.readouterr().out.split())
    assert printed.count(str(out)) == 4
    console = Console(file=io.StringIO(), width=200)
    time = dict.fromkeys(("median", "lower", "upper", "milliseconds", "rounds"), 1)
    row = {"label": "[/x]", "passes": 1, "replays": 1, "time": time, "peak_ratio": 1}
    settings = {"model": "[/m]", "batch_size": 1, "device": "cpu", "threads": 1}
    print_bench(
        {
            "rows": [row | {"peak_bytes": 1}],
            "settings": settings,
            "baseline": "[/b]",
            "left_out": {"[/l]": "[/r]"},
        },
        console,
    )
    assert all(f"[/{letter}]" in console.file.getvalue() for letter in "xmblr")
