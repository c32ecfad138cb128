"""Studies: from a file to runs with identities, and from what runs leave to results."""

import base64
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from advreg.cli import main
from advreg.cli.compare.share import chosen
from advreg.data import load_data
from advreg.errors import ConfigurationError, RunError
from advreg.study import compare, engines, execution
from advreg.study.budget import STEPS, epochs_of
from advreg.study.collecting import collect
from advreg.study.definition import merged
from advreg.study.execution import execute
from advreg.study.fingerprints import Fingerprints
from advreg.study.reading import read_study, study_from
from advreg.study.runs import cells
from advreg.training.loading import last_network
from advreg.training.lock import Lock
from advreg.training.settings import DataSettings

STUDY = {
    "base": {
        "data": {"name": "digits", "limit": 40, "validation": 20},
        "model": "convnet",
        "batch_size": 20,
        "epochs": 2,
    },
    "arms": {
        "plain": {"method": "standard"},
        "hidden": {"method": {"name": "layerwise", "sites": ["blocks.*"], "epsilon": 0.1}},
    },
    "seeds": 2,
    "evaluation": {"images": 60, "attacked": 20, "epsilons": [0, "8/255"], "steps": 2},
}


def study(**changes):
    return study_from({**STUDY, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a study of which the first two runs are done."""
    out = tmp_path_factory.mktemp("study")
    for run in compare.plan(study())[:2]:
        assert execute(run, out) == "done"
    return out


def test_runs_come_seed_by_seed_and_the_baseline_first():
    runs = compare.plan(study(groups={"a": {}, "b": {"epochs": 3}}, baseline="hidden"))
    assert [(run.seed, run.group, run.arm) for run in runs[:5]] == [
        (0, "a", "hidden"),
        (0, "a", "plain"),
        (0, "b", "hidden"),
        (0, "b", "plain"),
        (1, "a", "hidden"),
    ]
    assert [run.configuration.run.epochs for run in runs[:4]] == [2, 2, 3, 3]
    assert [run.index for run in runs] == list(range(8))


def test_an_identity_is_of_the_content_alone():
    runs = {run.id: run for run in compare.plan(study())}
    assert len(runs) == 4
    renamed = study(arms={"other": STUDY["arms"]["plain"], "hidden": STUDY["arms"]["hidden"]})
    assert [run.id for run in compare.plan(renamed)] == list(runs)
    threads = study(base={**STUDY["base"], "tensorboard": True, "checkpoint_minutes": 1.0})
    assert [run.id for run in compare.plan(threads)] == list(runs)
    for changed in (
        {"base": {**STUDY["base"], "epochs": 3}},
        {"base": {**STUDY["base"], "data": {"name": "digits", "limit": 41, "validation": 20}}},
        {"evaluation": {**STUDY["evaluation"], "steps": 3}},
    ):
        assert not {run.id for run in compare.plan(study(**changed))} & runs.keys()


def test_other_data_of_the_same_name_are_other_runs(monkeypatch):
    before = {run.id for run in compare.plan(study())}

    def darker(data):
        splits = load_data("digits", limit=40, validation=20)
        return replace(splits, test=replace(splits.test, images=splits.test.images // 2))

    monkeypatch.setattr("advreg.study.fingerprints.build_data", darker)
    assert not {run.id for run in compare.plan(study())} & before


def test_what_data_are_is_remembered_until_a_file_changes(tmp_path, monkeypatch):
    reads = []

    def read(data):
        reads.append(data)
        return load_data("digits", limit=40, validation=20)

    monkeypatch.setattr("advreg.study.fingerprints.build_data", read)
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    (folder / "one.png").write_bytes(b"1")
    data = DataSettings(str(folder), augment="none")
    found = [Fingerprints(out)(replace(data, augment=augment)) for augment in ("none", "crop")]
    assert found[0] == found[1]
    assert len(reads) == 1
    (folder / "one.png").write_bytes(b"22")
    Fingerprints(out)(data)
    Fingerprints(out)(replace(data, limit=3))
    assert len(reads) == 3
    (out / "data.json").write_text("{")
    Fingerprints(out)(data)
    assert len(reads) == 4


def test_a_plan_of_thousands_takes_seconds():
    arms = {
        f"{number}": {"method": {"name": "layerwise", "epsilon": (number + 1) / 1000}}
        for number in range(100)
    }
    groups = {str(size): {"batch_size": size} for size in range(8, 18)}
    began = time.process_time()
    runs = compare.plan(study(arms=arms, groups=groups, seeds=5))
    assert time.process_time() - began < 10
    assert len({run.id for run in runs}) == 5000


def test_images_may_be_drawn_again_for_each_seed():
    fixed, drawn = (compare.plan(study(redraw=redraw)) for redraw in (False, True))
    assert [run.configuration.data.seed for run in fixed] == [0] * 4
    assert [run.configuration.data.seed for run in drawn] == [0, 0, 1, 1]


def test_what_is_merged_replaces_a_method_of_another_name():
    base = {"method": {"name": "dropout", "p": 0.5}, "data": {"name": "digits", "limit": 4}}
    assert merged(base, {"method": "fgsm"})["method"] == {"name": "fgsm"}
    assert merged(base, {"method": {"p": 0.1}})["method"] == {"name": "dropout", "p": 0.1}
    assert merged(base, {"data": "mnist"})["data"] == {"name": "mnist", "limit": 4}
    assert "method" not in merged(base, {"method": None})
    assert base["method"] == {"name": "dropout", "p": 0.5}


def test_a_size_is_merged_over_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        json.dumps({**STUDY, "sizes": {"tiny": {"seeds": [7], "arms": {"hidden": None}}}})
    )
    found = read_study(path, "tiny")
    assert (found.title, found.size, found.seeds, list(found.arms)) == (
        "mine",
        "tiny",
        (7,),
        ["plain"],
    )
    assert "sizes" not in found.text
    with pytest.raises(ConfigurationError, match="take one of tiny"):
        read_study(path, "huge")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {}}, "no arms"),
        ({"baseline": "none"}, "give one of plain, hidden"),
        ({"seeds": [1, 1]}, "each seed once"),
        ({"seeds": True}, "seeds"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": [-1]}, "seed"),
        ({"goal": "fame"}, "goal"),
        ({"budget": "money"}, "budget"),
        ({"redraw": "yes"}, "true or false"),
        ({"time_steps": 1}, "time_steps is 1; give true or false"),
        ({"pairs": [["hidden"]]}, "give a list of"),
        ({"pairs": [["hidden", "plain"]]}, "without the baseline"),
        ({"pairs": [["hidden", "nothing"]]}, "give two different ones of"),
        ({"colour": "red"}, "has no setting colour"),
        ({"evaluation": {"image": 3}}, "evaluation has no setting image"),
        ({"evaluation": {"epsilons": ["much"]}}, "epsilons"),
        ({"evaluation": {"epsilons": 3}}, "give a list"),
        ({"arms": {"plain": {"method": "standard", "epochs": 3}}}, "budget decides"),
        ({"base": {**STUDY["base"], "out": "x"}}, "which the study decides"),
        ({"base": 3}, "key: value"),
        ({"tune": {"common": 3}}, "key: value"),
        ({"tune": {"arms": {"hidden": 3}}}, "key: value"),
        ({"tuned": {"all": 3}}, "key: value"),
        ({"tuned": {"all": {"hidden": [1]}}}, "key: value"),
        ({"groups": {"a": {"arms": ["hidden"]}}}, "lacks the baseline"),
        ({"groups": {"a": {"arms": ["plain", "other"]}}}, "names the arm 'other'"),
        ({"arms": {"plain": {"model": {"depth": 3}}}}, "The arm 'plain' cannot work"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence_before_anything_runs(changes, said):
    with pytest.raises(ConfigurationError, match=said):
        study(**changes)


def test_a_mistake_in_a_method_is_found_by_the_plan():
    with pytest.raises(ConfigurationError, match="The arm 'plain' cannot work"):
        compare.plan(study(arms={"plain": {"method": {"name": "dropout", "p": 7}}}))


def test_a_budget_of_passes_gives_two_pass_methods_half_of_the_epochs():
    arms = {
        "plain": {"method": "standard"},
        "fgsm": {"method": "fgsm"},
        "free": {"method": {"name": "free", "replays": 4}},
    }
    base = {**STUDY["base"], "epochs": 40}
    equal = study(arms=arms, base=base, budget="passes")
    assert epochs_of(equal, cells(equal), None) == [40, 20, 10]
    same = study(arms=arms, base=base)
    assert epochs_of(same, cells(same), None) == [40, 40, 40]


def test_a_budget_of_seconds_is_measured_once(tmp_path, monkeypatch):
    timed = study(budget="seconds", base={**STUDY["base"], "epochs": 30})
    with pytest.raises(ConfigurationError, match="--out"):
        compare.plan(timed)
    calls = []

    def measured(study, found):
        calls.append(study)
        return {"all: plain": {"median": 1.0}, "all: hidden": {"median": 1.5}}

    monkeypatch.setattr("advreg.study.budget._measured", measured)
    for _ in range(2):
        runs = compare.plan(timed, tmp_path)
        assert [run.configuration.run.epochs for run in runs[:2]] == [30, 20]
    assert len(calls) == 1
    assert json.loads((tmp_path / STEPS).read_text())["all: hidden"]["median"] == 1.5


@pytest.mark.full
def test_steps_are_really_timed(tmp_path):
    timed = study(budget="seconds")
    epochs_of(timed, cells(timed), tmp_path)
    costs = json.loads((tmp_path / STEPS).read_text())
    assert costs["all: plain"]["median"] == 1.0
    assert 0.5 < costs["all: hidden"]["lower"] < 20


def test_steps_are_timed_before_the_first_run_alone(tmp_path, monkeypatch):
    timed, calls = study(time_steps=True), []
    monkeypatch.setattr(compare, "step_times", lambda *given: calls.append(given))
    runs = compare.plan(timed, tmp_path)
    assert len(calls) == 1
    runs[-1].folder(tmp_path).mkdir(parents=True)  # one is under way, or done elsewhere
    compare.plan(timed, tmp_path)
    compare.plan(timed)
    assert len(calls) == 1


def test_a_row_holds_every_image_s_fate(done):
    run = compare.plan(study())[1]
    row = json.loads((run.folder(done) / "row.json").read_text())
    bits = np.unpackbits(np.frombuffer(base64.b64decode(row["correct"]["clean"]), np.uint8))
    assert (row["images"], row["attacked"], len(row["epochs"])) == (60, 20, 2)
    assert bits[:60].mean() == pytest.approx(row["clean"])
    attacked = np.unpackbits(np.frombuffer(base64.b64decode(row["correct"]["8/255"]), np.uint8))
    assert attacked[:20].mean() == pytest.approx(row["robust"]["8/255"])
    # The same images in the order of the data, found another way.
    test = load_data("digits", limit=40, validation=20).test
    from advreg.evaluation.robustness import choose_examples

    places = choose_examples(test, 60, 250, 0).indices.sort().values
    model = last_network(run.folder(done) / "run")
    with torch.no_grad():
        right = model(test.images[places] / 255).argmax(1) == test.targets[places]
    assert right.tolist() == bits[:60].astype(bool).tolist()
    targets = test.targets[places].tolist()
    assert row["chance"] == pytest.approx(max(map(targets.count, targets)) / 60)


def test_a_finished_run_is_skipped_and_a_claimed_one_left_alone(done, tmp_path):
    runs = compare.plan(study())
    assert execute(runs[0], done) == "skipped"
    with Lock(runs[2].folder(tmp_path)):
        assert execute(runs[2], tmp_path) == "busy"
    assert execution.state(runs[2], tmp_path) == "planned"


def test_a_failed_run_is_kept_apart_and_tried_again(tmp_path, monkeypatch):
    run = compare.plan(study())[0]

    def fail(*arguments, **settings):
        raise RuntimeError("two\nlines")

    with monkeypatch.context() as patched:
        patched.setattr(execution, "train", fail)
        assert execute(run, tmp_path) == "failed"
    assert execution.state(run, tmp_path) == "failed"
    found = collect(study(), [run], tmp_path, "advreg")
    assert found.failures == [
        {"group": "all", "arm": "plain", "seed": 0, "reason": "RuntimeError: two lines"}
    ]
    assert execute(run, tmp_path) == "done"
    assert execution.state(run, tmp_path) == "done"


def test_collecting_says_what_is_missing(done):
    planned = study()
    found = collect(planned, compare.plan(planned), done, "advreg compare x.yaml --out y")
    results = json.loads(found.path.read_text())
    assert [(row["arm"], row["seed"]) for row in results["rows"]] == [("plain", 0), ("hidden", 0)]
    assert results["missing"] == [
        {"group": "all", "arm": arm, "seed": 1} for arm in ("plain", "hidden")
    ]
    assert results["epsilons"] == ["8/255"]
    assert results["arms"][1]["settings"]["epsilon"] == 0.1
    assert (results["kind"], results["format"], results["groups"]) == ("advreg study", 1, ["all"])


def test_nothing_to_collect_is_a_sentence(tmp_path):
    from rich.console import Console

    with pytest.raises(RunError, match="No run of the study"):
        compare.finish(study(), compare.plan(study()), tmp_path, "advreg", Console(quiet=True))


def test_shards_are_all_runs_once():
    shares = [list(chosen(10, None, f"{shard}/4")) for shard in range(4)]
    assert sorted(index for share in shares for index in share) == list(range(10))
    assert list(chosen(10, 3, None)) == [3]
    for index, shard in ((None, None), (1, "0/2"), (10, None), (-1, None), (None, "4/4")):
        with pytest.raises(ConfigurationError):
            chosen(10, index, shard)
    with pytest.raises(ConfigurationError, match="I/N"):
        chosen(10, None, "one of two")


def test_runs_are_packed_on_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    shown = [one["CUDA_VISIBLE_DEVICES"] for one in engines.devices(3)]
    assert shown == ["4", "6"] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert engines.devices(3) == [{}]
    with pytest.raises(ConfigurationError, match="per_device"):
        engines.devices(0)


def test_the_plan_is_a_table_for_other_programs(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(STUDY))
    assert main(["compare", "plan", str(path)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["0", "1", "2", "3"]
    assert lines[3][2:] == ["planned", "all", "hidden", "1", "2"]


def test_files_for_clusters_name_options_that_exist():
    from advreg.cli.compare.share import build_parser

    folder = Path(__file__).parents[2] / "studies" / "cluster"
    known = build_parser()._option_string_actions
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == ["kubernetes.yaml", "slurm.sbatch", "xargs.sh"]
    for path in files:
        text = path.read_text().replace("\\\n", " ").replace("\n              ", " ")
        line = next(line for line in text.splitlines() if "advreg compare run" in line)
        options = [word for word in line.split() if word.startswith("--")]
        assert {"--out", "--size"} <= set(options) <= known.keys()
