"""Studies in processes that are killed, stopped, and started again."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from advreg.study.compare import finish, plan, run_study
from advreg.study.definition import read_study
from advreg.study.pool import run_pool

ROOT = Path(__file__).parents[2]
TEXT = """
base:
  data: {name: digits, limit: 200, validation: 50}
  model: convnet
  epochs: 6
  batch_size: 20
arms:
  plain: {method: standard}
  example: {method: {name: layerwise, memory: example, epsilon: 0.1}}
seeds: 2
evaluation: {images: 200, attacked: 100, epsilons: [0.1], steps: 5, batch_size: 50}
"""
TIMES = {"seconds", "step_seconds", "evaluation_seconds", "seconds_per_step"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "mine.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def undisturbed(file, tmp_path_factory):
    """The rows of the study that nobody disturbs."""
    out = tmp_path_factory.mktemp("undisturbed")
    runs = plan(read_study(file), out)
    assert run_study(runs, out, workers=1, quiet=True)["done"] == 4
    return rows(runs, out)


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def rows(runs, out):
    return [without_times(json.loads((run.folder(out) / "row.json").read_text())) for run in runs]


def start(*arguments):
    code = "import sys; from advreg.cli import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", code, "compare", *map(str, arguments)])


def epochs(out):
    return sum(len(path.read_bytes().splitlines()) for path in out.glob("runs/*/run/metrics.jsonl"))


def wait_for(out, count):
    end = time.monotonic() + 600
    while epochs(out) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.full
def test_a_study_that_is_killed_twice_ends_with_the_same_numbers(file, undisturbed, tmp_path):
    for count in (2, 9):
        with start(file, "--out", tmp_path, "--workers", 2) as process:
            wait_for(tmp_path, count)
            process.kill()
    with start(file, "--out", tmp_path, "--workers", 2) as process:
        assert process.wait(900) == 0
    assert rows(plan(read_study(file)), tmp_path) == undisturbed
    assert json.loads((tmp_path / "results.json").read_text())["missing"] == []


@pytest.mark.full
def test_four_shards_of_which_two_are_killed_equal_one_process(file, undisturbed, tmp_path):
    def shard(index):
        return start("run", file, "--out", tmp_path, "--shard", f"{index}/4", "--workers", 1)

    shards = [shard(index) for index in range(4)]
    wait_for(tmp_path, 4)
    for process in shards[:2]:
        process.kill()
        process.wait()
    shards[:2] = [shard(0), shard(1)]
    assert [process.wait(900) for process in shards] == [0] * 4
    assert rows(plan(read_study(file)), tmp_path) == undisturbed


@pytest.mark.full
def test_a_study_that_is_asked_to_stop_saves_and_goes_on(file, undisturbed, tmp_path):
    with start(file, "--out", tmp_path, "--workers", 1) as process:
        wait_for(tmp_path, 2)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(600) == 130
    assert epochs(tmp_path) < 12
    with start(file, "--out", tmp_path, "--workers", 2) as process:
        assert process.wait(900) == 0
    assert rows(plan(read_study(file)), tmp_path) == undisturbed


@pytest.mark.full
def test_two_calls_at_a_time_share_the_work(file, undisturbed, tmp_path):
    both = [start(file, "--out", tmp_path, "--workers", 1) for _ in range(2)]
    assert [process.wait(900) for process in both] == [0, 0]
    assert rows(plan(read_study(file)), tmp_path) == undisturbed


@pytest.mark.full
def test_xargs_does_a_study(file, undisturbed, tmp_path):
    program = tmp_path / "advreg"
    code = "import sys\nif __name__ == '__main__':\n"
    code += "    from advreg.cli import main\n    sys.exit(main())"
    program.write_text(f"#!{sys.executable}\n{code}\n")  # workers import it, and must not run it
    program.chmod(0o755)
    sized = tmp_path / "sized.yaml"
    sized.write_text(TEXT + "sizes: {smoke: {}}\n")
    out = tmp_path / "out"
    script = ROOT / "studies" / "cluster" / "xargs.sh"
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        ["sh", str(script), str(sized), "smoke", str(out)],
        env=environment,
        check=True,
        timeout=1800,
    )
    assert rows(plan(read_study(file)), out) == undisturbed


def die_at_two(item):
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * 10


@pytest.mark.full
def test_a_process_that_dies_loses_its_own_piece_alone():
    found, interrupted = run_pool([1, 2, 3, 4], die_at_two, 2)
    assert [one.value for one in found] == [10, None, 30, 40]
    assert "signal 9" in found[1].reason
    assert not interrupted


OWN = """
import os

from advreg.methods import Standard


class Dies(Standard):
    name = "dies"

    def step(self, *arguments):
        os._exit(3)


class Raises(Standard):
    name = "raises"

    def step(self, *arguments):
        raise ValueError("a mistake of <mine>")
"""


@pytest.mark.full
def test_a_worker_that_dies_loses_its_own_run_and_the_page_says_why(tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    text = TEXT.replace("epochs: 6", "epochs: 1").replace("seeds: 2", "seeds: 1")
    arms = "arms:\n  dies: {method: 'faulty:Dies'}\n  raises: {method: 'faulty:Raises'}\n"
    (tmp_path / "mine.yaml").write_text(text.replace("arms:\n", arms) + "baseline: plain\n")
    study, out = read_study(tmp_path / "mine.yaml"), tmp_path / "out"
    runs = plan(study, out)
    counts = run_study(runs, out, workers=1, quiet=True)
    assert (counts["done"], counts["failed"]) == (2, 2)
    found = finish(study, runs, out, "advreg compare mine.yaml", Console(quiet=True))
    reasons = {one["arm"]: one["reason"] for one in found.failures}
    assert reasons["dies"] == "Its process was ended with exit code 3."
    assert reasons["raises"] == "ValueError: a mistake of <mine>"
    page = (out / "study.html").read_text()
    assert "Its process was ended with exit code 3." in page
    assert "ValueError: a mistake of &lt;mine&gt;" in page


def environment_of(item):
    time.sleep(0.5)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.full
def test_workers_of_a_pool_have_the_gpus_in_turn():
    devices = [{"CUDA_VISIBLE_DEVICES": name} for name in ("4", "6")]
    found, _ = run_pool(list(range(6)), environment_of, 2, environments=devices)
    assert {one.value for one in found} == {"4", "6"}


@pytest.mark.full
def test_a_network_of_ones_own_has_an_answer_whose_command_trains(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\n"
        "def build():\n"
        "    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()\n"
        "    return nn.Sequential(*layers, nn.Linear(32, 10))\n"
    )
    ask = ["--model", "nets:build", "--data", "digits", "--minutes", "0.1", "--out", "runs/asked"]
    code = "import sys; from advreg.cli import main; sys.exit(main())"
    program = [sys.executable, "-c", code]
    subprocess.run([*program, "compare", *ask], cwd=tmp_path, check=True, timeout=1800)
    answer = json.loads((tmp_path / "runs" / "asked" / "recommendation.json").read_text())
    assert len(answer["sentences"]) == 3
    command = shlex.split(answer["command"])[1:]
    subprocess.run([*program, *command], cwd=tmp_path, check=True, timeout=600)
    assert (tmp_path / "runs" / "mine" / "best.pt").exists()
