"""Our attacks beside those of three libraries: same moves, equal to the last place."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def check(figures):
    assert figures["same_signs"]
    assert figures["fgsm_units"] <= 1
    assert figures["pgd_units"] <= 1


@pytest.mark.full
@pytest.mark.parametrize("library", ["torchattacks", "foolbox", "art"])
def test_a_library_takes_the_same_steps(library, script):
    pytest.importorskip(library, reason=f"{library} is absent: pip install 'advreg[parity]'")
    check(script("parity").compare(library))


def test_the_recorded_result_says_so_for_every_library(script):
    recorded = json.loads((BENCHMARKS / "results" / "parity.json").read_text())
    assert recorded["settings"] == script("parity").SETTINGS
    assert list(recorded["libraries"]) == ["torchattacks", "foolbox", "art"]
    for figures in recorded["libraries"].values():
        check(figures)


@pytest.mark.full
def test_a_difference_would_be_seen(script, monkeypatch):
    module = script("parity")
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
