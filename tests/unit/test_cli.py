"""The command line: what it reads, what it prints, how it ends."""

import io
import os
import re
import shutil
import signal
import warnings

import pytest

from advreg import errors
from advreg.cli import COMMANDS, main
from advreg.cli import hash as hashes
from advreg.cli.parsing import json_list, write_out
from advreg.cli.train import parse
from advreg.training import Configuration, RunFolder

TINY = [
    "--data", "digits", "--limit", "40", "--data.validation", "20", "--batch_size", "20",
    "--epochs", "1", "--tensorboard", "false",
]  # fmt: skip


def train(out, *options):
    return main(["train", *TINY, "--out", str(out), *options])


def parsed(*options):
    return parse(["--out", "somewhere", *options])[0]


def test_each_part_is_named_and_set_by_its_own_options():
    given = parsed(
        "--data", "cifar10", "--model=resnet20", "--method", "layerwise",
        "--method.epsilon", "8/255", "--method.memory", "example", "--epochs", "15",
        "--limit", "10000", "--download", "--optimizer", "adamw", "--schedule.warmup", "0.1",
    )  # fmt: skip
    assert (given.data.name, given.data.limit, given.data.download) == ("cifar10", 10000, True)
    assert given.model.name == "resnet20"
    assert given.method.settings == {"epsilon": "8/255", "memory": "example"}
    assert given.run.epochs == 15
    assert given.optimizer.learning_rate == 0.001
    assert given.schedule.warmup == 0.1


def test_what_is_not_given_is_the_same_as_in_python():
    assert parsed() == Configuration.from_dict({"out": "somewhere"})


def test_lists_are_written_with_commas_mappings_as_in_yaml_and_switches_alone():
    for value, sites in (("input,blocks.*", ["input", "blocks.*"]), ('["**"]', ["**"])):
        assert parsed("--method.sites", value).method.settings == {"sites": sites}
        assert parsed(f"--method.sites={value}").method.settings == {"sites": sites}
    settings = parsed("--method.epsilon", '{"input": "8/255", "blocks.*": 0.05}').method.settings
    assert settings == {"epsilon": {"input": "8/255", "blocks.*": 0.05}}
    assert parsed("--method.pair", "--deterministic").method.settings == {"pair": True}
    assert parsed("--channels_last", "--epochs", "2").run.channels_last
    assert not parsed("--tensorboard", "false").run.tensorboard
    assert parsed("--download").data.download
    assert not parsed("--download", "false").data.download
    assert parsed("--method.relative").method.settings == {"relative": True}
    assert write_out(["--data", "x", "--limit=3"]) == ["--data.name", "x", "--data.limit=3"]
    assert json_list("0.5, 3,a") == '[0.5, 3, "a"]'


def test_options_win_over_the_file_wherever_they_stand(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 9\nmodel: vgg11\nmethod:\n  name: fgsm\n  clean_weight: 0.25\n")
    given = parsed("--epochs", "3", "--config", str(path))
    assert given.run.epochs == 3
    assert given.model.name == "vgg11"
    assert (given.method.name, given.method.settings) == ("fgsm", {"clean_weight": 0.25})


def test_a_runs_own_configuration_makes_another_run(finished, tmp_path):
    given = parsed("--config", str(finished / "config.yaml"), "--seed", "3")
    assert (given.run.out, given.run.seed, given.data.limit) == ("somewhere", 3, 40)
    assert "seed" not in given.method.settings


def test_resuming_takes_the_settings_of_the_run(finished):
    given, _, resume = parse(["--out", str(finished), "--resume"])
    assert resume
    assert (given.run.epochs, given.data.limit) == (1, 40)


def test_a_run_is_not_resumed_with_another_method(finished, capsys):
    said = mistake(capsys, "train", "--out", str(finished), "--resume", "--method", "fgsm")
    assert "made with --method layerwise, and --resume keeps its settings" in said
    parse(["--out", str(finished), "--resume", "--method", "layerwise"])


def test_a_folder_without_a_run_is_not_to_be_resumed(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    said = mistake(capsys, "train", *TINY, "--out", str(tmp_path / "run"), "--resume")
    assert "not empty; name another folder" in said
    assert "--resume" not in said


def test_a_folder_with_a_hyphen_first_is_no_option_in_what_to_type(finished, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "-run")
    folder = RunFolder("-run")
    assert "--out ./-run --resume" in folder.resume_command()
    assert folder.finished() == "The run is in ./-run; next: advreg evaluate ./-run"


def test_a_run_of_codes_is_not_measured_as_a_classifier(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("code:\n  bits: 16\ndata:\n  query: 3\n")
    for command in (["evaluate", str(tmp_path)], ["train", "--out", str(tmp_path), "--resume"]):
        said = mistake(capsys, *command)
        assert "run of codes, made by advreg hash train; measure it with: advreg hash" in said


def test_every_help_shows_examples_and_defaults(capsys):
    hashing = [f"hash {command}" for command in hashes.COMMANDS]
    for command in [*COMMANDS, *hashing]:
        assert main([*command.split(), "--help"]) == 0
        text = capsys.readouterr().out
        assert f"advreg {command}" in text.partition("examples:")[2]
        assert "default:" in text or command in ("hash", "completion")  # which have no options


def test_the_help_has_the_settings_of_the_method_that_is_named(capsys):
    main(["train", "--method", "fgsm", "--help"])
    text = capsys.readouterr().out
    assert "--method.clean_weight" in text
    assert "--method.memory MEMORY" not in text
    assert "--data NAME" in text


def test_the_program_explains_itself(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in COMMANDS)
    assert main(["--version"]) == 0
    assert re.fullmatch(r"advreg \S+, torch \S+, Python 3\.\S+\n", capsys.readouterr().out)


def mistake(capsys, *arguments):
    """The one line that a mistake prints."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("advreg: ")
    return printed.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nothing"], ["nothing", "resnet20"]),
        (["--data", "nothing"], ["nothing", "digits"]),
        (["--method", "nothing"], ["nothing", "layerwise"]),
        (["--method.memry", "slot"], ["memry", "memory"]),
        (["--method.epsilon", "eight"], ["eight", "8/255"]),
        (["--method.sites", "nowhere.*"], ["nowhere", "blocks"]),
        (["--epochs", "many"], ["--epochs", "expected int", "many"]),
        (["--limit", "few"], ["--data.limit", "expected int or null", "few"]),
        (["--epoch", "3"], ["--epoch", "did you mean --epochs"]),
        (["--precision", "8"], ["--precision: expected 32-true or bf16-mixed or 16-mixed. "]),
        (["--config", "nothing.yaml"], ["nothing.yaml"]),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(options, words, capsys, tmp_path):
    said = mistake(capsys, "train", *TINY, "--out", str(tmp_path / "run"), *options)
    assert all(word in said for word in words)
    assert not (tmp_path / "run").exists()


def test_a_missing_out_an_existing_run_and_an_unknown_command_are_refused(capsys, finished):
    assert "--out" in mistake(capsys, "train")
    before = sorted(path.name for path in finished.iterdir())
    assert "--resume" in mistake(capsys, "train", *TINY, "--out", str(finished))
    assert sorted(path.name for path in finished.iterdir()) == before
    assert "train, evaluate" in mistake(capsys, "trian")


def test_a_missing_run_cannot_be_evaluated(capsys, tmp_path):
    assert "does not exist" in mistake(capsys, "evaluate", str(tmp_path / "nothing"))
    assert "config.yaml" in mistake(capsys, "evaluate", str(tmp_path))


def test_sites_are_listed_with_shapes_and_bytes(capsys):
    options = ["--model", "convnet", "--in_channels", "1", "--image_size", "8"]
    assert main(["sites", *options, "--sites", "input,blocks.0", "--batch_size", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 x 1 x 8 x 8" in printed
    assert "blocks.0" in printed
    assert "blocks.1" not in printed
    assert "bytes" in printed


def test_sites_that_cannot_be_listed_are_a_sentence(capsys):
    for option, value, word in (
        ("--model", "x", "resnet20"),
        ("--sites", "x", "x"),
        ("--image_size", "0", "image_size"),
    ):
        assert word in mistake(capsys, "sites", option, value)


def test_our_warnings_are_one_line_without_their_file(monkeypatch, capsys):
    def warn(arguments):
        warnings.warn("The loss is at chance.", errors.CollapseWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("advreg.cli.sites.run", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["sites"]) == 0
    assert capsys.readouterr().err == "advreg: The loss is at chance.\n"


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    from advreg.training import loop

    plain = loop.update

    def update(session, group):
        plain(session, group)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "update", update)
    assert train(tmp_path / "a") == 130
    assert f"advreg train --out {tmp_path / 'a'} --resume" in capsys.readouterr().err
    monkeypatch.setattr(loop, "update", plain)
    assert main(["train", "--out", str(tmp_path / "a"), "--resume"]) == 0


def test_a_name_that_is_no_text_can_be_printed(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, "utf-8", write_through=True))
    monkeypatch.setattr("advreg.cli._run", lambda *_: print(os.fsdecode(b"caf\xe9")))
    main(["sites"])
    assert printed.getvalue() == b"caf\\udce9\n"


def test_an_interrupt_is_said(monkeypatch, capsys):
    for message in ([], ["Go on with X."]):

        def interrupted(*given, message=message):
            raise KeyboardInterrupt(*message)

        monkeypatch.setattr("advreg.study.demo.run_demo", interrupted)
        assert main(["demo"]) == 130
        assert capsys.readouterr().err == f"advreg: {(*message, 'Interrupted.')[0]}\n"


def test_a_folder_that_cannot_be_made_is_said_before_the_work(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    for command in (["train", *TINY], ["bench"], ["demo"]):
        assert f"{blocked} is a file" in mistake(capsys, *command, "--out", str(blocked / "run"))
    assert blocked.read_text() == "kept"


def test_the_demonstration_gets_its_options(monkeypatch, capsys):
    given = []
    monkeypatch.setattr("advreg.study.demo.run_demo", lambda *options: given.append(options))
    assert main(["demo", "--seeds", "3", "--quick", "--overwrite", "true", "--out", "x"]) == 0
    assert given == [("x", 3, None, True, True, [])]
    assert "seeds" in mistake(capsys, "demo", "--seeds", "1")
