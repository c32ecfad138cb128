"""What the recorded results say of methods follows from their figures and is complete."""

import json
from pathlib import Path

import pytest

from advreg.methods import METHODS
from advreg.methods.composed import PARTNERS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def recorded(name):
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_every_method_has_been_trained_from_the_command_line(data, script):
    rows = recorded("every_method")["data"][data]["methods"]
    assert rows.keys() >= {*METHODS, *(f"layerwise+{name}" for name in PARTNERS)}
    assert rows.keys() == {arm.label for arm in script("every_method").ARMS}
    assert all(row["passed"] and row["exit_code"] == 0 for row in rows.values())


def test_the_order_of_input_gradients_is_judged_by_its_runs(script):
    found, order = recorded("order_digits"), script("order")
    assert len(found["test"]["seeds"]) >= 5
    assert not set(found["test"]["seeds"]) & set(found["tuning"]["seeds"])
    verdicts = order.judge(found["runs"])
    assert verdicts.keys() == found["verdicts"].keys()
    for claim, verdict in verdicts.items():
        assert found["verdicts"][claim] == pytest.approx(verdict)
