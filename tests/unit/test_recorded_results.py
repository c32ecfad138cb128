"""What the recorded results say of methods follows from their figures and is complete."""

import json
import re
from pathlib import Path

import pytest

from advreg.methods import METHODS
from advreg.methods.composed import PARTNERS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LATER = {"cutmix"}
"""What has come since the last recording, which the next one has."""


def recorded(name):
    return json.loads((BENCHMARKS / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_every_method_has_been_trained_from_the_command_line(data, script):
    rows = recorded("every_method")["data"][data]["methods"]
    assert rows.keys() | LATER >= {*METHODS, *(f"layerwise+{name}" for name in PARTNERS)}
    assert rows.keys() | LATER == {arm.label for arm in script("every_method").ARMS}
    assert all(row["passed"] and row["exit_code"] == 0 for row in rows.values())


def test_the_order_of_input_gradients_is_judged_by_its_runs(script):
    found, order = recorded("order_digits"), script("order")
    assert len(found["test"]["seeds"]) >= 5
    assert not set(found["test"]["seeds"]) & set(found["tuning"]["seeds"])
    verdicts = order.judge(found["runs"])
    assert verdicts.keys() == found["verdicts"].keys()
    for claim, verdict in verdicts.items():
        assert found["verdicts"][claim] == pytest.approx(verdict)


def ratios(results):
    """Every median with its quartiles that a result file holds, as the documents print them."""
    if isinstance(results, list):
        return set().union(*map(ratios, results))
    if not isinstance(results, dict):
        return set()
    found = ratios(list(results.values()))
    if {"median", "lower", "upper"} <= results.keys():
        found.add("{median:.3f} ({lower:.3f} to {upper:.3f})".format(**results))
    return found


@pytest.mark.parametrize("document", ["README.md", "benchmarks/README.md"])
def test_ratios_in_the_documents_are_those_of_result_files(document):
    path = BENCHMARKS.parent / document
    text = path.read_text(encoding="utf-8")
    files = BENCHMARKS.glob("results/*.json")
    measured = set().union(*(ratios(recorded(file.stem)) for file in files))
    printed = set(re.findall(r"\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", text))
    assert len(printed) > 20
    assert printed <= measured
    linked = re.findall(r"\]\(((?:benchmarks/)?results/\w+\.json)\)", text)
    assert linked
    assert all((path.parent / file).is_file() for file in linked)
