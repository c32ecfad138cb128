"""Studies in processes that are killed, stopped, and started again."""

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked, program
from PIL import Image
from rich.console import Console

from advreg.study import question
from advreg.study.compare import finish, plan, run_study
from advreg.study.engines import Here
from advreg.study.pool import GRACE, Ended, context, requests_to_stop, run_pool
from advreg.study.reading import read_study

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
    assert run_study(runs, out, engine=Here(1), quiet=True)["done"] == 4
    return rows(runs, out)


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def rows(runs, out):
    return [without_times(json.loads((run.folder(out) / "row.json").read_text())) for run in runs]


def start(*arguments, **where):
    return Forked("compare", *arguments, **where)


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
        process = start(file, "--out", tmp_path, "--workers", 2)
        wait_for(tmp_path, count)
        process.kill()
    assert start(file, "--out", tmp_path, "--workers", 2).wait() == 0
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
    shards[:2] = [shard(0), shard(1)]
    assert [process.wait() for process in shards] == [0] * 4
    assert rows(plan(read_study(file)), tmp_path) == undisturbed


@pytest.mark.full
def test_a_study_that_is_asked_to_stop_saves_and_two_calls_share_the_rest(
    file, undisturbed, tmp_path
):
    process = start(file, "--out", tmp_path, "--workers", 1)
    wait_for(tmp_path, 2)
    os.kill(process.pid, signal.SIGUSR1)
    assert process.wait() == 130
    assert epochs(tmp_path) < 12
    both = [start(file, "--out", tmp_path, "--workers", 1) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert rows(plan(read_study(file)), tmp_path) == undisturbed


@pytest.mark.full
def test_xargs_does_a_study(file, undisturbed, tmp_path):
    sized = tmp_path / "sized.yaml"
    sized.write_text(TEXT + "sizes: {smoke: {seeds: 1}}\n")
    out = tmp_path / "out"
    script = ROOT / "studies" / "cluster" / "xargs.sh"
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    with program(tmp_path):
        command = ["sh", str(script), str(sized), "smoke", str(out)]
        subprocess.run(command, env=environment, check=True, timeout=900)
    assert rows(plan(read_study(sized, "smoke")), out) == undisturbed[:2]


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
    counts = run_study(runs, out, engine=Here(1), quiet=True)
    assert (counts["done"], counts["failed"]) == (2, 2)
    found = finish(study, runs, out, "advreg compare mine.yaml", Console(quiet=True))
    reasons = {one["arm"]: one["reason"] for one in found.failures}
    assert reasons["dies"] == "Its process was ended with exit code 3."
    assert reasons["raises"] == "ValueError: a mistake of <mine>"
    page = (out / "study.html").read_text()
    assert "Its process was ended with exit code 3." in page
    assert "ValueError: a mistake of &lt;mine&gt;" in page


def test_processes_that_may_use_a_gpu_begin_afresh(monkeypatch):
    """In a fork of one whose imports have asked for GPUs, CUDA_VISIBLE_DEVICES says nothing."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert context().get_start_method() == "spawn"


def environment_of(item):
    time.sleep(0.5)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.full
def test_workers_of_a_pool_have_the_gpus_in_turn():
    devices = [{"CUDA_VISIBLE_DEVICES": name} for name in ("4", "6")]
    found, _ = run_pool(list(range(6)), environment_of, 2, environments=devices)
    assert {one.value for one in found} == {"4", "6"}


def sleep(item):
    time.sleep(item)
    return item


@pytest.mark.full
def test_what_is_under_way_when_the_time_is_up_is_ended():
    began = time.monotonic()
    found, interrupted = run_pool([0, 600, 1], sleep, 1, until=began + 20)
    assert time.monotonic() - began < 20 + 2 * GRACE
    assert found in ([Ended(0), Ended(interrupted=True), None], [None] * 3)  # on a slow machine
    assert not interrupted


def two_epochs():
    question.MOST_EPOCHS = 2


@pytest.mark.full
def test_a_network_and_images_of_ones_own_have_an_answer_whose_lines_train(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\n"
        "def build():\n"
        "    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()\n"
        "    return nn.Sequential(*layers, nn.Linear(32, 3))\n"
    )
    random = np.random.default_rng(0)
    for kind, bright in (("night", 40), ("dusk", 120), ("day", 200)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(bright - 40, bright + 40, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number}.png")
    ask = ["--model", "nets:build", "--data", "photos", "--minutes", 9, "--out", "runs/asked"]
    assert start(*ask, folder=tmp_path, changes=two_epochs).wait() == 0
    answer = json.loads((tmp_path / "runs" / "asked" / "recommendation.json").read_text())
    assert len(answer["sentences"]) == 3
    assert "nets:build" in (tmp_path / "runs" / "asked" / "study.html").read_text()
    assert Forked(*shlex.split(answer["command"])[1:], folder=tmp_path).wait() == 0
    assert (tmp_path / "runs" / "mine" / "best.pt").exists()


def test_a_hangup_asks_to_stop_once_however_often_it_comes():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with requests_to_stop() as asked:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert asked == [signal.SIGHUP]
            signal.raise_signal(signal.SIGTERM)
            assert len(asked) == 2
    finally:
        signal.signal(signal.SIGHUP, before)
