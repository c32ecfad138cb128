"""The scripts in benchmarks/, on tiny networks and without a clock."""

import json
import math
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from advreg.data.images import ImageData
from advreg.errors import ConfigurationError
from advreg.methods import build_method

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = (
    *("overhead", "memory", "peers", "growth", "micro", "designs", "profile_step", "parity"),
    *("every_method", "order", "overfitting", "share", "study_statistics", "tune"),
    *("lots_digits", "lots_speed", "loops"),
)
FILES = {"overfitting": "catastrophic_overfitting"}


def one_step_each(seconds):
    """Stands in for timing: every arm makes two steps; `seconds` are said to have passed."""

    def timed(builds, *rest, **settings):
        with ExitStack() as stack:
            for build in builds.values():
                step = build(stack)
                step()
                step()
        return {label: [seconds(label)] * 20 for label in builds}

    return timed


def test_every_script_explains_itself(script, monkeypatch, capsys):
    for name in SCRIPTS:
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
        with pytest.raises(SystemExit, match="0"):
            script(name).main()
        text = capsys.readouterr().out
        assert f"python benchmarks/{name}.py" in text
        assert f"benchmarks/results/{FILES.get(name, name)}" in text
        assert "--out" in text


def test_a_result_file_has_settings_and_environment_and_is_whole(script, tmp_path):
    path = tmp_path / "new" / "a.json"
    script("harness").write(path, {"rounds": 20, "out": path}, rows={"plain": 1})
    results = json.loads(path.read_text())
    assert results["settings"] == {"rounds": 20}
    assert results["rows"] == {"plain": 1}
    assert results["environment"]["torch"] == torch.__version__
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_overhead_divides_by_both_baselines_and_by_the_sites(script, monkeypatch):
    overhead = script("overhead")
    seconds = {"plain": 1.0, "plain with the input's gradient": 1.25}
    monkeypatch.setattr(overhead, "timed", one_step_each(lambda label: seconds.get(label, 1.5)))
    options = Namespace(
        device="cpu", batch_size=2, rounds=20, repeats=1, threads=1, compile=False, amp=True,
        channels_last=True, arms="", builds=3,
    )  # fmt: skip
    first, _, found = overhead.measure("convnet", options)  # one a build, so that none is lost
    assert first["rows"]["input"]["over plain"]["rounds"] == 20
    rows = found["rows"]
    assert rows["plain, again"]["over plain"] == {
        "median": 1.5, "lower": 1.5, "upper": 1.5, "rounds": 60,
    }  # fmt: skip
    arm = rows["input and hidden, relative"]
    assert arm["over plain"]["median"] == 1.5
    assert arm["over plain with the input's gradient"]["median"] == 1.2
    assert arm["sites"] == 5
    assert arm["microseconds a site"] == pytest.approx(1e5)
    assert rows["input"]["sites"] == rows["example memory at the input"]["sites"] == 1


@pytest.mark.full
def test_memory_says_what_is_expected(script):
    options = Namespace(device="cpu", batch_size=4)
    rows = script("memory").measure("convnet", options, form="eager")["rows"]
    hidden = rows["hidden, absolute"]
    assert hidden["sites"] == 4
    assert hidden["activations"] == 4 * 4 * 32 * 32 * (32 + 32 + 64 / 4 + 64 / 4)
    assert hidden["added"] == hidden["bytes"] - rows["plain"]["bytes"]
    assert hidden["added"] <= hidden["expected"] + 64


def test_passes_of_peers_are_counted(script, monkeypatch):
    peers = script("peers")
    monkeypatch.setattr(peers, "timed", one_step_each(lambda label: 1.0))
    options = Namespace(
        model="convnet", device="cpu", batch_size=2, sam="no_such_file.py", rounds=20, threads=1
    )
    rows = peers.measure(options)
    assert rows["plain"]["passes"] == {"forward": 1, "backward": 1}
    for name, settings in peers.OURS.items():
        stated = build_method(name, **settings).passes
        assert rows[f"advreg {name}"]["passes"] == {"forward": stated, "backward": stated}
    assert "no_such_file.py" in rows["published SAM"]["not_measured"]
    for library in ("torchattacks", "art"):
        row = rows[f"{library} PGD"]
        assert "cannot be imported" in row.get("not_measured", "") or row["passes"]["backward"] > 10


@pytest.mark.full
def test_growth_fits_a_slope_and_draws_four_panels(script, monkeypatch):
    growth, draw = script("growth"), script("growth_plot").draw
    monkeypatch.setattr(growth, "timed", one_step_each(lambda label: 1.0 + (label != "plain")))
    options = Namespace(rounds=20, threads=1)
    sites = {count: growth.spread(count, 4) for count in (1, 2, 4)}
    points = growth.points(growth.Stack(4, 3), 16, 2, sites, options)
    assert [point["values"] for point in points] == [n * 2 * 3 * 16 * 16 for n in sites]
    assert {point["added_ms"] for point in points} == {1000}
    assert growth.slope(points) == pytest.approx(0)
    linear = [{"values": v, "added_ms": 3 * v} for v in (1, 10, 100)]
    assert growth.slope(linear) == pytest.approx(1)
    assert growth.slope([*linear[:2], {"values": 100, "added_ms": -1}]) is None
    panels = dict.fromkeys(("sites", "batch", "width", "depth"), points)
    slopes = dict.fromkeys(panels, 0.5) | {"depth": None}
    svg = draw({"panels": panels, "slopes": slopes})
    assert svg == draw({"panels": panels, "slopes": slopes})
    assert "<svg" in svg


def test_sites_are_spread_over_all_blocks(script):
    growth = script("growth")
    assert growth.spread(60, 60) == [f"blocks.{number}" for number in range(60)]
    assert growth.spread(4, 60)[-1] == "blocks.59"


def test_the_loop_and_the_bare_steps_make_the_same_steps(script, monkeypatch):
    loop_steps = script("loop_steps")
    monkeypatch.setattr(loop_steps, "timed", one_step_each(lambda label: 1.0))
    trained = []
    train_epoch = loop_steps.train_epoch

    def watched(session, *rest):
        train_epoch(session, *rest)
        trained.append((session.tally.updates, session.loader.augment, session.tally.examples))

    monkeypatch.setattr(loop_steps, "train_epoch", watched)
    options = Namespace(rounds=20, builds=2, batch_size=4, steps=3, threads=1, model="convnet")
    found = loop_steps.loop(options)
    assert trained == 2 * [(3, "crop_flip", 12), (6, "crop_flip", 12)]
    assert (found["over bare"]["median"], found["over bare"]["rounds"]) == (1, 40)
    assert found["bare, again, over bare"]["median"] == 1


def test_small_things_are_timed_one_by_one(script):
    micro = script("micro")
    made = []
    spread = micro.milliseconds(lambda: made.append(1), times=7)
    assert (len(made), spread["times"]) == (8, 7)
    assert 0 <= spread["lower"] <= spread["median"] <= spread["upper"] < math.inf


def test_a_profile_separates_the_sites_operations_from_the_network_s(script, monkeypatch):
    profile_step = script("profile_step")
    monkeypatch.setattr(profile_step, "copy_bandwidth", lambda device: 1e9)
    options = Namespace(
        model="convnet", device="cpu", batch_size=2, rounds=2, threads=1, compile=False, amp=False
    )
    arm = profile_step.measure(options)["arms"]["hidden, absolute"]
    ours = {"_Perturb", "_PerturbBackward"}  # within them the kernels of the CPU, called directly
    assert set(arm["sites' operations, ms"]) == ours
    assert "aten::mkldnn_convolution" in arm["others, ms"]
    values = 2 * 32 * 32 * (32 + 32 + 64 / 4 + 64 / 4)
    assert arm["their bytes"] == values * (4 + 4 + 0.25 + 4 + 0.25)
    assert arm["their bytes at the bandwidth, ms"] == pytest.approx(arm["their bytes"] / 1e6)
    mine, plain = {"_Perturb": 2.0, "relu": 5.0}, {"relu": 4.0, "add": 2.0}
    row = profile_step.compared(mine, plain, 10, 1.0)
    assert (row["step, ms"], row["plain, ms"]) == (7, 6)
    assert list(row["others, ms"].items()) == [("add", -2), ("relu", 1)]


@pytest.mark.full
def test_designs_put_back_what_they_swapped(script, monkeypatch):
    designs = script("designs")
    monkeypatch.setattr(designs, "timed", one_step_each(lambda label: 1.0))
    swaps = [
        swap for kind in (designs.EAGER, designs.COMPILED) for d in kind.values() for swap in d
    ]
    before = [getattr(owner, name) for owner, name, _ in swaps]
    options = Namespace(batch_size=2, rounds=20, threads=1, compile=False)
    rows = designs.measure("convnet", options)
    assert set(rows) == {"plain", *designs.EAGER}
    assert set(rows["kept"]["kernels, ms"]) == {"add", "pack"}
    assert [getattr(owner, name) for owner, name, _ in swaps] == before


def test_mistakes_are_one_sentence_and_lose_nothing(script, monkeypatch, capsys, tmp_path):
    out = tmp_path / "a.json"
    out.write_text("before")
    monkeypatch.chdir(BENCHMARKS.parent)
    for name, options, said in (
        ("overhead", ["--models", "convnet,nosuch"], "there is no model 'nosuch'"),
        ("profile_step", ["--rounds", "0"], "'0' is not a whole number from 1"),
        ("designs", ["--models", "convnet", "--rounds", "3"], "give at least 20"),
        ("overhead", ["--models", "convnet", "--arms", "foo"], "No arm begins with 'foo'"),
        ("peers", ["--sam", "nosuch.py"], "there is no file 'nosuch.py'"),
        ("micro", ["--out", "pyproject.toml/a.json"], "pyproject.toml is a file"),
        ("memory", ["--out", "tests"], "'tests' is a folder"),
        ("parity", ["--out", "tests"], "'tests' is a folder"),
        ("share", ["--out", "pyproject.toml/a.json"], "pyproject.toml is a file"),
        ("order", ["--out", "tests"], "'tests' is a folder"),
        ("growth", ["--plot", "--out", "nosuch.json"], "There is no nosuch.json to draw"),
    ):
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--out", str(out), *options])
        with pytest.raises(SystemExit, match="2"):
            script("harness").run(script(name).main)
        assert said in capsys.readouterr().err.splitlines()[-1]
        assert out.read_text() == "before"


def test_an_interrupt_is_said_without_a_traceback(script, capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        script("harness").run(interrupted)
    assert "interrupted" in capsys.readouterr().err


def test_fewer_attacked_images_are_the_first_of_more_with_all_classes_alike(script):
    images = ImageData(
        torch.zeros(60, 1, 2, 2, dtype=torch.uint8), torch.arange(60) % 3, ("a", "b", "c")
    )
    draw = script("autoattack_runs").draw
    many, few = draw(images, 45), draw(images, 12)
    assert torch.equal(few, many[:12])
    assert images.targets[few].bincount().tolist() == [4, 4, 4]
    assert len(set(many.tolist())) == 45


def test_chunks_of_other_runs_are_not_taken(script, tmp_path):
    held_chunks, partial = script("autoattack_runs").held_chunks, tmp_path / "x.partial.json"
    assert held_chunks(partial, {"runs": {"a": ["one"]}}) == {}
    partial.write_text('{"settings": {"runs": {"a": ["one"]}}, "chunks": {"a|0|0-9": {}}}')
    assert held_chunks(partial, {"runs": {"a": ["one"]}}) == {"a|0|0-9": {}}
    with pytest.raises(ConfigurationError, match="name another file"):
        held_chunks(partial, {"runs": {"a": ["two"]}})
