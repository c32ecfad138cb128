"""The hashing demo: its summary, and its page from results alone."""

import json
from argparse import Namespace
from contextlib import nullcontext

import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg

from advreg.cli import main
from advreg.errors import RunError
from advreg.report import hashing_plots
from advreg.report.hashing import read_hashing, sentences, write_hashing
from advreg.study import hashing as study
from advreg.study.hashing import summarise
from advreg.study.hashing_design import DIGITS, HashStudy, read_hash_study, slug
from advreg.study.hashing_run import train_and_measure
from advreg.study.plan import Failure, Outcome
from advreg.training import Interrupted

PLAIN = "Triplet"


def row(arm, seed, shift=0.0):
    return {
        "arm": arm, "seed": seed, "map": 0.8 + 0.01 * seed + shift, "optimistic": 0.9,
        "pessimistic": 0.7, "deephash_pytorch": 0.8, "precision_within": 0.7,
        "bits": 16, "splits": {"digits-1": 0.6},
        "curve": {"precision": [None, 0.9, 0.1], "recall": [0.0, 0.5, 1.0]},
        "attack": {"8/255": 0.5}, "masked": [], "entropy": 0.3,
        "generated_entropy": 0.4 + 5 * shift, "confidence": [0.05] * 20,
        "generated_confidence": [0.05] * 20, "distinct_codes": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "expected"),
    [("../../Other run", "other-run"), ("/etc/passwd", "etc-passwd"), ("..", ""), ("a\0b", "a-b")],
)
def test_a_label_leads_to_no_other_folder(label, expected):
    assert slug(label) == expected


@pytest.fixture
def results(tmp_path):
    rows = [row(PLAIN, 0), row(PLAIN, 1), row("<b>own</b>", 0, 0.05), row("<b>own</b>", 1, 0.06)]
    contents = {
        "kind": "advreg hash demo", "format": 1, "title": "A & B", "interrupted": False,
        "command": "advreg hash demo", "lead": "Of <i>digits</i>.",
        "quick": True, "scale": {"bits": 16, "epochs": 2, "epsilons": ["8/255"], "steps": 5,
                  "attacked": 9, "splits": ["digits-1"]},
        "split": "Split digits.", "seeds": [0, 1], "pictures": {PLAIN: "../../secret.png"},
        "arms": [{"label": "<b>own</b>", "method": "standard", "settings": {}}],
        "generator": [
            {"step": step, "spread": 1.0, "distance_to_training": 1.1, "own_fid": 0.5,
             "own_kid": 0.1}
            for step in (1, 2)
        ],
        "lengths": [row(PLAIN, 0) | {"bits": 8, "map": 0.123}],
        "summary": {label: summarise(rows, label, PLAIN) for label in (PLAIN, "<b>own</b>")},
        "rows": rows, "environment": {"torch": "2"}, "seconds": 1.0,
    }  # fmt: skip
    path = tmp_path / "results.json"
    path.write_text(json.dumps(contents))
    return path


def test_differences_are_paired_on_the_seeds(results):
    found = json.loads(results.read_text())["summary"]
    assert found[PLAIN]["map"]["difference"] is None
    difference = found["<b>own</b>"]["map"]["difference"]
    assert difference["mean"] == pytest.approx(0.055)
    assert difference["standard_error"] == pytest.approx(0.005)
    assert found["<b>own</b>"]["8/255"]["difference"]["mean"] == 0


def test_the_page_is_one_offline_file_with_every_text_escaped(results):
    text = write_hashing(results).read_text()
    assert "<b>own" not in text
    assert "&lt;b&gt;own&lt;/b&gt;" in text
    assert "A &amp; B" in text
    assert "bounds 70.0 to 90.0" in text
    assert "<i>digits" not in text
    assert "<td>12.3</td>" in text  # of the shorter codes
    assert "mAP, digits-1" in text
    assert "of the first 9 queries" in " ".join(text.split())
    assert text.count("<svg") == 5
    text = text.replace("http://www.w3.org/", "")  # the names of SVG, which nothing fetches
    assert all(link not in text for link in ("http:", "https:", 'src="/', "secret"))
    found = read_hashing(results)
    (said,) = sentences(found)
    assert "does not clearly change mAP (+5.5, -0.9 to 11.9) and mAP, digits-1 (" in said
    assert "mAP under attack at 8/255 (+0.0" in said
    found["rows"][3]["masked"] = ["It did nothing.", "Nor did this."]
    assert "own</b>: an attack was masked in 1 of 2 runs" in sentences(found)[1]


LONG = ["Triplet", *(f"Layerwise with memory of kind {kind}" for kind in "1234")]


@pytest.mark.parametrize("labels", [list(DIGITS.arms), LONG], ids=["short", "long"])
def test_the_legend_below_the_bars_fits_into_the_picture(labels, monkeypatch):
    monkeypatch.setattr(hashing_plots, "finished_svg", lambda canvas, title: canvas)
    figures = {name: {"mean": 0.5} for name in ("map", "8/255", "optimistic", "pessimistic")}
    results = {"summary": dict.fromkeys(labels, figures), "scale": {"epsilons": ["8/255"]}}
    canvas = hashing_plots._drawn("bars", hashing_plots._bars, results)
    FigureCanvasAgg(canvas).draw()
    (legend,) = canvas.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= canvas.bbox.x1


def test_results_of_another_kind_are_refused(tmp_path):
    (tmp_path / "r.json").write_text('{"kind": "advreg demo"}')
    for path in (tmp_path / "r.json", tmp_path / "none.json"):
        with pytest.raises(RunError, match="advreg hash demo wrote"):
            read_hashing(path)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_failed_run_costs_its_own_seed_alone(tmp_path, monkeypatch, capsys, interrupted):
    arms = list(DIGITS.arms)
    rows = [{"arm": arm, "seed": seed, "split": "s", "bits": 16} for seed in (0, 1) for arm in arms]
    outcome = Outcome(rows[:-1], [Failure(rows[-1]["arm"], 1, "RunError: diverged")], interrupted)
    monkeypatch.setattr(study, "run_arms", lambda *_: outcome)
    source = Namespace(path=tmp_path, read_metrics=lambda: [{}])
    monkeypatch.setattr(study, "generator_of", lambda *_: source)
    monkeypatch.setattr(study, "ingredients", lambda *_: "")
    monkeypatch.setattr(study, "summarise", lambda *_: {})
    monkeypatch.setattr(study, "_pictures", lambda *_: {})
    monkeypatch.setattr(study, "print_hashing", lambda *_: None)
    monkeypatch.setattr(study, "write_hashing", lambda path: path.with_name("report.html"))
    with pytest.raises(Interrupted, match="5 of 10 runs") if interrupted else nullcontext():
        study.run_hash_demo(tmp_path / "demo", seeds=2)
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert [row["seed"] for row in results["rows"]] == [0] * len(arms)
    assert [failure["seed"] for failure in results["failures"]] == [1]
    assert "seed 1, failed: RunError: diverged" in capsys.readouterr().out


GENERATE = (
    "hash generate --data digits --data.split disjoint --data.query 5 --data.train 10"
    " --steps 2 --width 4 --seed 7 --pool 60 --out {}"
)
STUDY = """
title: Short
lead: Nothing.
base:
  data: {name: digits, split: disjoint, query: 5, train: 10}
  epochs: 1
  code: {bits: 16}
  generated: {share: 0.25}
arms:
  Triplet: {}
  CSQ: {loss: csq, generated: true}
seeds: 1
bits: [8]
generator: {steps: 2, width: 4}
pool: 60
evaluation: {epsilons: [8/255], steps: 2, attacked: 20}
"""


def test_a_study_is_read_from_a_file_and_does_nothing_twice(tmp_path, monkeypatch):
    made_from = []

    def here(runs, work, workers, progress):
        made_from.append(work.keywords["made_from"])
        rows = [{"arm": arm.label, "seed": seed, **work(arm, seed)} for arm, seed in runs]
        return Outcome(rows, [], False)

    monkeypatch.setattr(study, "run_arms", here)
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(STUDY)
    assert main(["hash", "compare", str(path), "--out", str(out), "--workers", "1"]) == 0
    found = json.loads((out / "results.json").read_text())
    assert [(row["arm"], row["bits"]) for row in found["rows"]] == [("Triplet", 16), ("CSQ", 16)]
    assert [(row["arm"], row["bits"]) for row in found["lengths"]] == [("Triplet", 8), ("CSQ", 8)]
    assert not list((out / "runs").iterdir())  # what is measured is not kept
    monkeypatch.setattr("advreg.study.hashing_run.train_hash", None)  # would fail
    design = read_hash_study(path)
    for arm, seed in design.runs():
        row = train_and_measure(arm, seed, design, "elsewhere", str(out), made_from[0])
        wanted = [*found["rows"], *found["lengths"]]
        label = {"arm": arm.label, "seed": seed}
        assert {**label, **row} in wanted
    other = HashStudy(**{**vars(design), "base": {**design.base, "epochs": 2}})
    with pytest.raises(TypeError):  # other settings are another run
        train_and_measure(*design.runs()[0], other, "elsewhere", str(out), made_from[0])
    with pytest.raises(TypeError):  # and so is what comes of another generator or other images
        train_and_measure(*design.runs()[0], design, "elsewhere", str(out), "another")
    other = tmp_path / "generator"
    assert main(GENERATE.format(other).split()) == 0
    command = ["hash", "compare", str(path), "--out", str(out), "--generator", str(other)]
    with pytest.raises(TypeError):
        main(command)
    assert made_from[1] != made_from[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("seeds: 0", "seeds is 0"),
        ("generator: {stepps: 2}", "'stepps' is no setting"),
        ("base: {seed: 1}", "base holds seed"),
        ("evaluation: {epsilons: 8/255}", "give a list"),
        ("arms: {A: {generated: 3}}", "generated of 'A' is 3"),
        ("base:", "base is None"),
        ("arms: {A:}", "arms.A is None"),
        ("bits: 8", "bits is 8"),
        ("arms: {A: {}, +a: {}, B: {}}", "The arms 'A' and '+a' would share their files"),
        ("extra: 1", "'extra' is no setting"),
    ],
)
def test_a_study_that_cannot_work_is_refused_in_a_sentence(tmp_path, capsys, line, reason):
    values = yaml.safe_load(STUDY) | yaml.safe_load(line)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    assert main(["hash", "compare", str(path), "--out", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.full
def test_the_demo_runs_whole(tmp_path):
    out = tmp_path / "demo"
    assert (
        main(["hash", "demo", "--quick", "--seeds", "2", "--workers", "2", "--out", str(out)]) == 0
    )
    found = json.loads((out / "results.json").read_text())
    assert len(found["rows"]) == 2 * len(DIGITS.arms)
    assert (out / "report.html").stat().st_size > 100_000
    assert main(["hash", "demo", "--out", str(out)]) == 2
