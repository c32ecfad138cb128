"""Our attacks beside those of three libraries: same moves, equal to the last place."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def benchmark():
    spec = importlib.util.spec_from_file_location("parity", BENCHMARKS / "parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(figures):
    assert figures["same_signs"]
    assert figures["fgsm_units"] <= 1
    assert figures["pgd_units"] <= 1


@pytest.mark.full
@pytest.mark.parametrize("library", ["torchattacks", "foolbox", "art"])
def test_a_library_takes_the_same_steps(library):
    pytest.importorskip(library, reason=f"{library} is absent: pip install 'advreg[parity]'")
    check(benchmark().compare(library))


def test_the_recorded_result_says_so_for_every_library():
    recorded = json.loads((BENCHMARKS / "results" / "parity.json").read_text())
    assert recorded["settings"] == benchmark().SETTINGS
    assert list(recorded["libraries"]) == ["torchattacks", "foolbox", "art"]
    for figures in recorded["libraries"].values():
        check(figures)


def test_a_difference_would_be_seen(monkeypatch):
    module = benchmark()
    monkeypatch.setitem(module.LIBRARIES, "ours", ("advreg", module.ours))
    monkeypatch.setitem(module.SETTINGS, "images", 2)
    check(module.compare("ours"))

    def other(model, inputs, targets, steps):
        nearby = module.ours(model, inputs, targets, steps)
        return nearby + 3 * module.UNIT * (nearby < 0.5) if steps else nearby

    monkeypatch.setitem(module.LIBRARIES, "ours", ("advreg", other))
    figures = module.compare("ours")
    assert figures["same_signs"]
    assert figures["pgd_units"] == 3

    def backwards(model, inputs, targets, steps):
        return 2 * inputs - module.ours(model, inputs, targets, steps)

    monkeypatch.setitem(module.LIBRARIES, "ours", ("advreg", backwards))
    assert not module.compare("ours")["same_signs"]
