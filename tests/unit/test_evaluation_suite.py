"""Suites: their figures, files, and what they say of the model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import SETTINGS, Images, images, network, timeless, without_square
from torch import nn

from advreg import LayerwiseAdversary
from advreg.attacks import has_autoattack
from advreg.errors import ConfigurationError, MissingExtraError
from advreg.evaluation import evaluate, evaluate_suite
from advreg.evaluation.corruptions import BENCHMARK
from advreg.evaluation.suites import build_suite


@pytest.fixture(autouse=True)
def _without_square(monkeypatch):
    without_square(monkeypatch)  # one test below has it


def test_a_quick_suite_has_the_figures_of_evaluate_and_more():
    model, data = network(), images()
    found = evaluate_suite(model, data, **SETTINGS).to_dict()
    plain = evaluate(model, data, epsilons=SETTINGS["epsilons"], batch_size=20, limit=40)
    for name in ("examples", "clean", "not_finite", "zero_gradient", "epsilons"):
        assert timeless(found[name]) == timeless(plain[name])
    assert plain["settings"].keys() <= found["settings"].keys()
    assert found["settings"]["suite"] == "quick"
    assert found["clean"].keys() == {"accuracy", "standard_error", "nll", "brier", "ece"}
    assert found["notes"] == []
    assert found["corruptions"] is None
    json.dumps(found, allow_nan=False)


def test_a_standard_suite_restarts_and_adds_noise():
    settings = {**SETTINGS, "epsilons": [0.1], "limit": 20}
    found = evaluate_suite(network(), images(), suite="standard", **settings)
    figures = found.to_dict()["epsilons"]["0.1"]
    assert figures.keys() >= {"fgsm", "pgd", "noise", "worst"}
    assert (figures["pgd"]["passes"], figures["pgd"]["queries"]) == (500, 10)
    assert (figures["noise"]["passes"], figures["noise"]["queries"]) == (0, 10)
    assert figures["worst"]["accuracy"] <= figures["pgd"]["accuracy"] + 1e-9


@pytest.mark.parametrize(
    ("name", "attacks", "steps", "restarts", "curve", "queries"),
    [
        ("quick", ["fgsm", "pgd"], 20, 1, "pgd", 100),
        ("standard", ["fgsm", "pgd", "noise"], 50, 10, "pgd-20", 1000),
        ("headline", ["fgsm", "pgd", "noise", "autoattack"], 50, 10, "pgd-20", 5000),
    ],
)
def test_suites_are_those_of_the_books(monkeypatch, name, attacks, steps, restarts, curve, queries):
    monkeypatch.setattr("advreg.evaluation.suites.need_autoattack", lambda: None)
    suite = build_suite(name)
    assert [attack.name for attack in suite.attacks] == attacks
    assert (suite.pgd.settings["steps"], suite.pgd.restarts) == (steps, restarts)
    assert (suite.doubled.settings["steps"], suite.doubled.restarts) == (2 * steps, restarts)
    assert (suite.curve.name, suite.curve.settings["steps"]) == (curve, 20)
    assert suite.square.settings == {"queries": queries}
    changed = build_suite(name, steps=7, restarts=3)
    assert (changed.pgd.settings["steps"], changed.pgd.restarts) == (7, 3)
    assert (changed.doubled.settings["steps"], changed.doubled.restarts) == (14, 3)
    assert changed.curve.name == "pgd-20"


def test_the_curve_goes_down_to_chance_and_stops_there():
    found = evaluate_suite(network(), images(), **SETTINGS)
    epsilons = [point["epsilon"] for point in found.curve]
    shares = [point["accuracy"] for point in found.curve]
    assert epsilons[:3] == [0, 8 / 255, 0.1]
    assert epsilons == sorted(epsilons)
    assert shares[0] == pytest.approx(0.8, abs=0.05)  # of the probe's twenty
    assert shares[-1] <= 1 / 3 < shares[-2]
    whole = evaluate_suite(network(), images(), **{**SETTINGS, "epsilons": [0.5, 1]})
    assert [point["epsilon"] for point in whole.curve] in ([0, 0.5, 1], [0, 0.5])


def test_without_the_package_of_square_its_row_says_so(monkeypatch):
    def missing():
        raise MissingExtraError('Square needs it; run: pip install "advreg[attacks]"')

    monkeypatch.setattr("advreg.evaluation.suites.need_autoattack", missing)
    monkeypatch.setattr("advreg.evaluation.suites.square", lambda *_, **__: pytest.fail("run"))
    row = evaluate_suite(network(), images(), **{**SETTINGS, "suite": "quick"}).evidence[-1]
    assert (row.verdict, row.name) == ("not measured", "white box at least as strong as square")
    assert "advreg[attacks]" in row.sentence
    with pytest.raises(MissingExtraError):
        build_suite("headline")


def test_the_evidence_is_on_the_figures():
    model, data = network(), images()
    found = evaluate_suite(model, data, weights=model.state_dict(), **SETTINGS)
    rows = {row.name: row for row in found.evidence}
    assert rows["the attacked model is the deployed one"].verdict == "holds"
    assert rows["white box at least as strong as noise"].verdict == "holds"
    assert rows["white box at least as strong as transfer"].verdict == "not measured"
    square = rows["white box at least as strong as square"]
    assert square.verdict == "not measured"
    assert square.sentence == "Square is left out of this test."
    assert rows["gradients are not zero"].figure == found.to_dict()["zero_gradient"] == 0
    other = evaluate_suite(model, data, weights=network(2).state_dict(), **SETTINGS)
    assert other.evidence[0].verdict == "does not hold"


def test_an_attack_from_another_model_is_measured_on_this_one():
    source = network(2).train()
    found = evaluate_suite(network(), images(), transfer=source, **SETTINGS)
    at = found.to_dict()["epsilons"]["0.1"]
    assert at["transfer"]["passes"] == 20
    assert at["transfer"]["queries"] == 1
    assert at["pgd"]["accuracy"] < at["transfer"]["accuracy"] <= 0.8
    row = next(row for row in found.evidence if row.name.endswith("transfer"))
    assert row.verdict == "holds"
    assert all(module.training for module in source.modules())


def test_own_corruptions_are_named_as_such():
    found = evaluate_suite(network(), images(), corruptions="own", **SETTINGS).corruptions
    assert found["set"] == "advreg corruptions, not CIFAR-10-C"
    assert len(found["figures"]) == 7
    shares = [f["accuracy"] for levels in found["figures"].values() for f in levels.values()]
    assert len(shares) == 21
    assert found["mean_accuracy"] == pytest.approx(sum(shares) / 21)
    assert found["mean_accuracy"] < 0.8


def test_a_cifar_folder_is_measured(tmp_path):
    data = images(8)
    pixels = data.images.permute(0, 2, 3, 1).numpy()
    np.save(tmp_path / "fog.npy", np.concatenate([pixels] * 4 + [255 - pixels]))
    np.save(tmp_path / "labels.npy", np.tile(data.targets.numpy(), 5))
    settings = {**SETTINGS, "limit": None}
    found = evaluate_suite(network(), data, corruptions=tmp_path, **settings)
    assert found.corruptions["set"] == "CIFAR-10-C"
    clean = found.to_dict()["clean"]
    fog = found.corruptions["figures"]["fog"]
    assert [fog[str(s)]["accuracy"] == clean["accuracy"] for s in range(1, 5)] == [True] * 4
    assert fog["5"]["nll"] != clean["nll"]
    assert "is over 1 corruptions" in found.notes[0]


def test_files_beside_the_benchmark_are_measured_but_not_averaged(tmp_path):
    """Inverted images in the extra files: 0 % in them, and in the benchmark's the clean figure."""
    data, model = images(8), network()
    data = Images(data.images, model(data.images / 255).argmax(1))
    pixels = np.concatenate([data.images.permute(0, 2, 3, 1).numpy()] * 5)
    for name in (*BENCHMARK, "speckle_noise", "saturate"):
        np.save(tmp_path / f"{name}.npy", pixels if name in BENCHMARK else 255 - pixels)
    np.save(tmp_path / "labels.npy", np.tile(data.targets.numpy(), 5))
    settings = {**SETTINGS, "limit": None}
    found = evaluate_suite(model, data, corruptions=tmp_path, **settings)
    assert found.corruptions["mean_accuracy"] == 1
    assert found.corruptions["extra"] == ["saturate", "speckle_noise"]
    assert found.corruptions["averaged"] == sorted(BENCHMARK)
    assert found.corruptions["figures"]["saturate"]["1"]["accuracy"] < 1
    assert ["leaves out saturate, speckle_noise" in note for note in found.notes] == [True]


def test_what_is_seen_about_the_model_is_said_and_undone():
    model = network().train()
    with LayerwiseAdversary(epsilon=0.1, sites=["0"]).attach(model):
        found = evaluate_suite(model, images(), weights=model.state_dict(), **SETTINGS)
    assert len(found.notes) == 2
    assert "training mode" in found.notes[0]
    assert "adversary" in found.notes[1]
    assert found.evidence[0].verdict == "does not hold"
    assert "without an adversary" in found.evidence[0].sentence
    assert all(module.training for module in model.modules())


def test_files_hold_figures_and_examples(tmp_path):
    found = evaluate_suite(network(), images(), folder=str(tmp_path), **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.partial.npz"]
    figures = found.write(str(tmp_path), data="blobs")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation-examples.npz",
        "evaluation.json",
    ]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == figures
    assert figures["data"] == "blobs"
    with np.load(tmp_path / "evaluation-examples.npz", allow_pickle=False) as arrays:
        hits = arrays["worst at 8/255"]
        assert hits.mean() == figures["epsilons"]["8/255"]["worst"]["accuracy"]
        assert (hits == (arrays["fgsm at 8/255"] & arrays["pgd at 8/255"])).all()
        assert len(set(arrays["index"].tolist())) == 40
        assert (np.diff(arrays["index"]) > 0).all()
        assert arrays["target"].tolist() == images().targets[arrays["index"]].tolist()
        assert arrays["loss"].mean() == pytest.approx(figures["clean"]["nll"])


@pytest.mark.parametrize("probe", [1, 30])
def test_progress_ends_at_everything_with_no_time_left(probe):
    seen = []
    settings = {**SETTINGS, "probe": probe, "corruptions": "own"}
    evaluate_suite(network(), images(), progress=seen.append, **settings)
    assert seen[-1].done == pytest.approx(seen[-1].total)
    assert seen[-1].seconds_left == pytest.approx(0)
    assert all(one.done <= one.total + 1e-9 for one in seen)
    assert all(one.seconds_left is not None for one in seen)


def test_settings_that_cannot_work_are_refused(tmp_path):
    for settings, message in (
        ({"suite": "heavy"}, "no suite 'heavy'; take one of quick, standard, headline"),
        ({"threat": "L7"}, "no threat 'L7'; take one of Linf, L2"),
        ({"epsilons": [8]}, "8/255 instead of 8"),
        ({"probe": 0}, "probe is 0"),
        ({"limit": 0}, "limit is 0"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            evaluate_suite(network(), images(), **{**SETTINGS, "folder": tmp_path, **settings})
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.skipif(not has_autoattack(), reason="pip install 'advreg[attacks]'")
def test_square_is_a_witness_where_it_is_installed(monkeypatch):
    monkeypatch.undo()
    row = evaluate_suite(network(), images(), **SETTINGS).evidence[-1]
    assert row.name.endswith("square")
    assert row.verdict == "holds"


@pytest.mark.full
@pytest.mark.skipif(not has_autoattack(), reason="pip install 'advreg[attacks]'")
def test_a_headline_adds_autoattack(monkeypatch):
    monkeypatch.undo()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).eval()
    pixels = images(6).images
    data = Images(pixels, model(pixels / 255).argmax(1))
    settings = {"epsilons": [0.02], "batch_size": 3, "steps": 5, "restarts": 2}
    found = evaluate_suite(model, data, suite="headline", **settings)
    at = found.to_dict()["epsilons"]["0.02"]
    assert at["autoattack"]["accuracy"] <= at["pgd"]["accuracy"]
    assert at["worst"]["accuracy"] == at["autoattack"]["accuracy"]
    assert at["autoattack"]["passes"] > 100
    assert found.to_dict()["settings"]["attacks"]["autoattack"] == {
        "version": "standard",
        "restarts": 1,
    }
