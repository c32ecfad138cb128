"""`advreg evaluate` with its suites."""

import json
import shutil
import sys

import numpy as np
import pytest
from evaluated import without_square
from test_cli import mistake

from advreg.cli import evaluate, main
from advreg.evaluation import suite
from advreg.evaluation.pieces import Pieces

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
