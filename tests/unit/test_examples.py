"""Every example runs, and learns."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_learns(path):
    assert runpy.run_path(str(path))["main"]() > 0.8


@pytest.mark.full
def test_the_one_for_several_ranks_runs_on_two():
    script = next(path for path in EXAMPLES if path.stem == "ddp_digits")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    ran = subprocess.run([*launch, script], capture_output=True, text=True, check=True)
    said, accuracy = ran.stdout.split(", test accuracy ")
    assert said == "2 rank(s)"
    assert float(accuracy.strip("%\n")) > 80
