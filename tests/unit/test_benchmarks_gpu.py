"""The one command for a card, on a toy of the same path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def gpu(*arguments):
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.full
def test_a_toy_trains_and_measures(tmp_path):
    wanted = ("--toy", "--pieces", "smoke,trainings", "--arms", "plain,fast_at", "--data", "digits")
    done = gpu("--minutes", 5, "--out", tmp_path, *wanted)
    assert done.returncode == 0, done.stderr
    losses = json.loads((tmp_path / "smoke_toy.json").read_text())["results"]["losses"]
    assert losses[0] != losses[1]
    whole = json.loads((tmp_path / "trainings_toy.json").read_text())
    for arm in ("plain", "fast_at"):
        found = whole["results"][arm]
        assert found["epochs"] == 2
        assert 0 <= found["averaged"]["pgd10"] <= found["averaged"]["clean"] <= 1
        assert found["passes"] == found["epochs"] * (2 if arm == "fast_at" else 1)


@pytest.mark.full
def test_a_name_that_is_none_is_a_sentence(tmp_path):
    done = gpu("--out", tmp_path / "new", "--arms", "plane")
    assert done.returncode == 2
    assert "There is no arm 'plane'; choose from plain, fast_at" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.full
def test_a_toy_compares_codes(tmp_path):
    done = gpu(
        "--minutes", 9, "--out", tmp_path, "--toy", "--pieces", "hashing", "--data", "digits"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "hashing_toy.json").read_text())["results"]
    assert found["failures"] == []
    codes = found["networks"]["resnet18"]
    assert len(codes["rows"]) == len(codes["summary"]) == 6
    assert all(0 < row["map"] < 1 for row in codes["rows"])
    assert found["generator"][-1]["own_fid"] > 0
