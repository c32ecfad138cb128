import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from advreg.errors import ConfigurationError
from advreg.study import Arm, Plan, run_plan
from advreg.study.pool import Ended, _Worker

PLAN = Plan((Arm("a", "standard"), Arm("b", "dropout", {"p": 0.5})), (3, 4))


def draw(arm: Arm, seed: int) -> dict:
    """Stands for a training: random numbers from the seed, and how it was run."""
    torch.manual_seed(seed)
    p = arm.settings.get("p", 1.0)
    return {"value": float(torch.rand(1)) * p, "threads": torch.get_num_threads()}


def fail_in_b(arm: Arm, seed: int) -> dict:
    if arm.label == "b":
        raise ValueError("two\nlines")
    return {"value": seed}


def slow_after_the_first(arm: Arm, seed: int) -> dict:
    time.sleep(0.0 if (arm.label, seed) == ("a", 3) else 2.0)
    return {"value": seed}


@pytest.mark.full
def test_rows_of_several_workers_are_those_of_one_process():
    reports = []
    found = run_plan(PLAN, draw, 2, lambda *arguments: reports.append(arguments))
    runs = [(arm, seed) for seed in (3, 4) for arm in PLAN.arms]
    assert found.rows == [{"arm": arm.label, "seed": seed, **draw(arm, seed)} for arm, seed in runs]
    assert {row["threads"] for row in found.rows} == {1}
    assert [done for done, _, _ in reports] == [1, 2, 3, 4]
    assert not found.failures


@pytest.mark.full
def test_a_failed_arm_is_reported_and_loses_no_other():
    outcome = run_plan(PLAN, fail_in_b, 1)
    assert [row["seed"] for row in outcome.rows] == [3, 4]
    assert [(failure.arm, failure.seed) for failure in outcome.failures] == [("b", 3), ("b", 4)]
    assert outcome.failures[0].reason == "ValueError: two lines"
    assert not outcome.interrupted


@pytest.mark.full
def test_an_interrupt_keeps_what_is_finished():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored

    def interrupt(done: int, total: int, name: str) -> None:
        if done == 1:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    outcome = run_plan(PLAN, slow_after_the_first, 1, interrupt)
    assert outcome.interrupted
    assert outcome.rows[0] == {"arm": "a", "seed": 3, "value": 3}
    assert len(outcome.rows) < 4
    assert not outcome.failures


class Gone:
    """A process, and the connection to it, that has ended without an answer."""

    exitcode = -15

    def recv(self):
        raise EOFError

    def join(self):
        pass


def test_a_worker_that_is_stopped_while_it_imports_has_not_failed():
    for stopping, expected in (
        (True, Ended(interrupted=True)),
        (False, Ended(reason="Its process was ended by signal 15.")),
    ):
        worker = _Worker(draw, {})
        worker.process = worker.connection = Gone()
        worker.index, worker.stopping = 0, stopping
        assert worker.take() == expected
        assert not worker.busy


SCRIPT = """
from advreg.study import Arm, Plan, run_plan
from advreg.study.pool import Ended, _Worker
from test_study_plan import say_and_wait

if __name__ == "__main__":
    run_plan(Plan((Arm("a", "standard"),), (1,)), say_and_wait, 1)
"""


def say_and_wait(arm: Arm, seed: int) -> dict:
    print(os.getpid(), flush=True)
    time.sleep(60)
    return {}


@pytest.mark.full
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
        # The pipe's other end is the worker's: it closes when the worker is gone.
        assert parent.communicate(timeout=20)[0] == ""


def test_a_plan_has_arms_and_seeds_once_each_and_some_worker():
    for arms, seeds in (((), (1,)), (PLAN.arms, ()), (PLAN.arms, (1, 1)), (PLAN.arms * 2, (1,))):
        with pytest.raises(ConfigurationError, match="at least one"):
            Plan(arms, seeds)
    with pytest.raises(ConfigurationError, match="at least 1"):
        run_plan(PLAN, draw, 0)
