"""`advreg evaluate` with its suites."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from evaluated import without_square
from test_cli import mistake
from test_models_published import preact_state

from advreg.cli import evaluate, main
from advreg.data import load_data
from advreg.evaluation import suite
from advreg.evaluation.pieces import Pieces
from advreg.models import load_robustbench
from advreg.training import RunFolder

OPTIONS = ["--epsilons", "0.1", "--limit", "20", "--steps", "2", "--batch_size", "10"]


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    without_square(monkeypatch)
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_a_suite_is_printed_and_written(run, capsys):
    options = ["--transfer", run, "--corruptions", "own", *OPTIONS]
    assert main(["evaluate", *map(str, [run, *options])]) == 0
    results = json.loads((run / "evaluation.json").read_text())
    assert results["settings"]["suite"] == "quick"
    assert results["settings"]["steps"] == 2
    assert results["epsilons"]["0.1"].keys() >= {"fgsm", "pgd", "transfer", "worst"}
    assert results["evidence"][0]["verdict"] == "holds"
    printed = capsys.readouterr().out
    for text in ("transfer", "worst of all", "gradients are not zero", "not CIFAR-10-C"):
        assert text in " ".join(printed.split())
    with np.load(run / "evaluation-examples.npz", allow_pickle=False) as arrays:
        assert len(arrays["pgd at 0.1"]) == 20
    assert not (run / suite.PARTIAL).exists()


def test_an_interrupted_evaluation_goes_on(run, capsys, monkeypatch):
    put, measured = Pieces.put, []

    def interrupting(self, name, piece):
        put(self, name, piece)
        measured.append(name)
        if len(measured) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Pieces, "put", interrupting)
    assert main(["evaluate", str(run), *OPTIONS]) == 130
    assert "goes on where it was" in capsys.readouterr().err
    assert (run / suite.PARTIAL).exists()
    assert "another seed" in mistake(capsys, "evaluate", str(run), *OPTIONS, "--seed", "1")
    assert main(["evaluate", str(run), *OPTIONS]) == 0
    assert len(measured) == len(set(measured))
    assert main(["evaluate", str(run), *OPTIONS, "--seed", "1", "--fresh"]) == 0


def test_what_cannot_work_is_one_sentence_and_leaves_nothing(run, capsys):
    before = sorted(run.iterdir())
    for options, message in (
        (["--suite", "heavy"], "no suite 'heavy'"),
        (["--threat", "L1"], "no threat 'L1'"),
        (["--epsilons", "8"], "8/255 instead of 8"),
        (["--epsilons", "eight"], "eight"),
        (["--transfer", "nowhere"], "does not exist"),
        (["--corruptions", "nowhere"], "holds no corruptions"),
    ):
        error = mistake(capsys, "evaluate", str(run), *OPTIONS, *options)
        assert message in error
        assert sorted(run.iterdir()) == before


def test_a_headline_without_its_package_names_the_command(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    assert 'pip install "advreg[attacks]"' in mistake(
        capsys, "evaluate", str(run), "--suite", "headline"
    )


def test_what_is_not_finite_is_said():
    clean = dict.fromkeys(("accuracy", "nll", "brier", "ece"))
    line = evaluate.clean_line({"clean": clean, "corruptions": None})
    assert line.endswith("not finite, calibration error not finite.")


def test_published_weights_are_measured_as_a_run_is(tmp_path, monkeypatch, capsys):
    without_square(monkeypatch)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state = preact_state(classes=4)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, "x.pt")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "birds.npz", images=images, targets=np.arange(40) % 4)
    command = ["evaluate", "x.pt", "--data", str(tmp_path / "birds.npz")]
    constants = ["--mean", "0.4,0.5,0.6", "--std", "0.2", *OPTIONS[:3], "8", *OPTIONS[4:]]

    assert main([*command, "--out", str(tmp_path / "out"), *constants]) == 0
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    test = load_data(tmp_path / "birds.npz").test
    network = load_robustbench("x.pt", mean=(0.4, 0.5, 0.6), std=0.2)
    right = network(test.images.float() / 255).argmax(1) == test.targets
    assert results["examples"] == len(test) == 8
    assert results["clean"]["accuracy"] == pytest.approx(right.float().mean().item())

    assert mistake(capsys, *command, *constants).startswith("advreg: Published weights need --out")
    np.savez("grey.npz", images=images[:, 0], targets=np.arange(40) % 4)
    for data, said in (("digits", "10 classes"), ("grey.npz", "3 channels and grey.npz has 1")):
        wrong = [*command[:2], "--data", data, "--out", str(tmp_path / "other"), *constants]
        assert said in mistake(capsys, *wrong)
    assert not (tmp_path / "other").exists()


def test_the_epoch_that_is_measured_is_said(run, capsys):
    folder = RunFolder(run)
    best, hashes = folder.load(folder.best), []
    best["model"] = {name: value * 0.9 for name, value in best["model"].items()}
    folder.save(folder.best, {**best, "epoch": 7})
    for weights, epoch in (("best", 7), ("last", 1)):
        assert main(["evaluate", str(run), *OPTIONS, "--weights", weights]) == 0
        assert f"weights of epoch {epoch}" in " ".join(capsys.readouterr().out.split())
        results = json.loads((run / "evaluation.json").read_text())
        assert results["epoch"] == epoch
        hashes.append(results["settings"]["model"])
    assert hashes[0] != hashes[1]
    said = mistake(capsys, "evaluate", str(folder.last), "--weights", "last")
    assert "is for a run's folder" in said


def test_options_of_published_weights_are_none_of_a_run(run, capsys):
    said = mistake(capsys, "evaluate", str(run), "--entry", "last")
    assert "--entry last is for published weights" in said
