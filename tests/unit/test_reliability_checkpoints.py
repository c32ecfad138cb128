"""Checkpoints that a crash, a bad disk or a stranger has touched."""

import io
import os
import random
import shutil
import socket
import zipfile
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_training_loop import configuration

from advreg.errors import AdvregError, DamagedCheckpointWarning, RunError, StateError
from advreg.files import replace_file
from advreg.training import RunFolder, load_run, loop, train
from advreg.training.checkpoint import read_checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two epochs, not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(configuration(out, threads=1), quiet=True)
    return out


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def flip(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_every_flipped_bit_and_every_cut_is_seen(run):
    size, draw = run.last.stat().st_size, random.Random(0)
    whole = run.last.read_bytes()
    for position in [0, 40, size - 72, size - 71, size - 1, *draw.choices(range(size), k=40)]:
        flip(run.last, position, draw.randrange(8))
        with pytest.raises(RunError, match="damaged"):
            run.load(run.last)
        run.last.write_bytes(whole[:position])
        with pytest.raises(RunError, match="damaged"):
            run.load(run.last)
        run.last.write_bytes(whole)
    run.load(run.last)


def test_torch_itself_reads_a_checkpoint(run):
    assert torch.load(run.last, weights_only=True)["tally"]["epoch"] == 2


def test_the_newest_whole_checkpoint_is_gone_on_from(run):
    expected = run.load(run.last)["model"]
    flip(run.last, 3000)
    with pytest.warns(DamagedCheckpointWarning, match=r"last-1\.pt"):
        result = train(configuration(run.path), resume=True, quiet=True)
    assert [line["epoch"] for line in result.metrics] == [1, 2]
    found = run.load(run.last)["model"]
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    run.load(run.previous(1))  # what was damaged has not taken its place


def test_an_older_checkpoint_in_the_place_of_a_missing_one_is_said(run):
    run.last.unlink()
    with pytest.warns(DamagedCheckpointWarning, match=r"last\.pt is missing.* from last-1\.pt"):
        found = run.load_last()
    assert found[0] == run.previous(1)
    flip(run.previous(1), 3000)
    with pytest.raises(RunError, match=r"last-1\.pt is damaged"):
        run.load_last()


def test_a_pickled_module_is_refused_in_our_own_words(run):
    torch.save({"format": 2, "model": torch.nn.Linear(2, 2)}, run.best)
    with pytest.raises(RunError, match="more than tensors and plain values") as refused:
        run.load(run.best)
    assert "\x1b" not in str(refused.value)
    assert "trust" not in str(refused.value)


def test_where_all_are_damaged_it_is_said_and_nothing_changes(run):
    for path in (run.last, run.previous(1)):
        flip(path, 3000)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RunError, match=r"last\.pt is damaged"):
        train(configuration(run.path), resume=True, quiet=True)
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_damaged_best_is_not_evaluated_and_the_next_best_replaces_it(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        stop_after_an_epoch(run.path)
    flip(run.best, 3000)
    with pytest.raises(RunError, match=r"best\.pt is damaged"):
        load_run(run.path)
    with pytest.warns(DamagedCheckpointWarning, match=r"best\.pt"):
        assert train(configuration(run.path), resume=True, quiet=True).best_epoch == 2
    load_run(run.path)


def stop_after_an_epoch(out):
    def stop(*_):
        raise KeyboardInterrupt

    with patch.object(loop.Records, "step", lambda self, epoch, step: epoch and stop()):
        train(configuration(out), quiet=True)


def test_so_many_checkpoints_are_kept_as_are_asked_for(tmp_path):
    train(configuration(tmp_path / "a", epochs=4, keep_checkpoints=3), quiet=True)
    run = RunFolder(tmp_path / "a")
    epochs = [run.load(run.previous(number))["tally"]["epoch"] for number in range(3)]
    assert epochs == [4, 3, 2]
    assert not run.previous(3).exists()
    train(configuration(tmp_path / "b", keep_checkpoints=1), quiet=True)
    assert not RunFolder(tmp_path / "b").previous(1).exists()


def test_a_file_system_without_hard_links_keeps_them_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr("os.link", refuse)
    train(configuration(tmp_path / "a"), quiet=True)
    run = RunFolder(tmp_path / "a")
    assert [run.load(run.previous(n))["tally"]["epoch"] for n in range(2)] == [2, 1]


def test_the_first_format_is_brought_to_todays(run):
    old = run.load(run.last)
    old.pop("identity")
    torch.save({**old, "format": 1}, run.last)
    found = run.load(run.last)
    assert found["format"] == 2
    assert found["identity"] is None
    assert len(train(configuration(run.path), resume=True, quiet=True).metrics) == 2
    run.best.unlink()
    load_run(run.path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 3}, "update advreg"),
        ({"format": 0}, "too old"),
        ({"format": "2"}, "no checkpoint of advreg"),
        ({"identity": {"settings": {}, "data": "os:system"}}, "says of no run"),
        ({"identity": {"settings": {"seed": torch.ones(3)}, "data": {}}}, "says of no run"),
        ({"identity": 0.5}, "says of no run"),
        ({"format": 1, "identity": None, "optimizer": None}, "does not hold what"),
        ({"format": 1, "tally": {"epoch": -1}}, "does not hold what"),
        ({"format": 1, "tally": {"step": 99}}, "does not hold what"),
        ({"format": 1, "random": {}}, "does not hold what"),
        ({"format": 1, "model": {}}, "does not hold what"),
    ],
)
def test_newer_older_foreign_and_incomplete_checkpoints_are_a_sentence(run, change, sentence):
    contents = {**run.load(run.last), **change}
    if change.get("format", 2) == 2:
        contents.pop("format")  # written with its checksum, then
        write_checkpoint(run.last, contents)
    else:
        torch.save(contents, run.last)
    with pytest.raises(StateError, match=sentence):
        train(configuration(run.path), resume=True, quiet=True)


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "os.system", "num_classes": 10},
        {"name": "convnet", "num_classes": 10**15},
        {"name": "convnet", "num_classes": 10, "run": "this"},
        [],
    ],
)
def test_an_architecture_that_is_none_is_a_sentence(run, architecture):
    write_checkpoint(run.best, {**run.load(run.best), "architecture": architecture})
    with pytest.raises(StateError, match="does not hold what"):
        load_run(run.path)


def test_no_code_in_a_checkpoint_is_run(run, tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"format": 1, "architecture": {}, "model": {}, "more": Hostile()}, run.last)
    with pytest.raises(RunError, match="damaged"):
        run.load(run.last)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_finite_are_not_measured(run):
    best = run.load(run.best)
    best["model"]["linear.weight"][0] = float("nan")
    write_checkpoint(run.best, best)
    with pytest.raises(RunError, match="not finite"):
        load_run(run.path)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_fuzzed_checkpoints_are_read_or_refused(finished, tmp_path, data):
    whole = (finished / "best.pt").read_bytes()
    kind = data.draw(st.sampled_from(["bytes", "spliced", "zip", "values"]))
    path = tmp_path / "fuzzed.pt"
    if kind == "bytes":
        path.write_bytes(data.draw(st.binary(max_size=200)))
    elif kind == "spliced":
        place = data.draw(st.integers(0, len(whole)))
        piece = data.draw(st.binary(min_size=1, max_size=20))
        path.write_bytes(whole[:place] + piece + whole[place + len(piece) :])
    elif kind == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x/data.pkl", data.draw(st.binary(max_size=100)))
            archive.writestr("x/version", data.draw(st.sampled_from(["3", "", "x"])))
        path.write_bytes(buffer.getvalue())
    else:
        plain = st.recursive(
            st.none() | st.integers() | st.text(max_size=5) | st.floats(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        )
        torch.save({"format": data.draw(plain), "model": data.draw(plain)}, path)
    if path.read_bytes() == whole:
        return
    with pytest.raises(AdvregError) as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)


def test_files_and_folders_are_flushed_before_and_after_the_move(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def moved(*paths):
        done.append("moved")
        replace(*paths)

    monkeypatch.setattr("os.fsync", flushed)
    monkeypatch.setattr("os.replace", moved)
    replace_file(tmp_path / "a", lambda path: path.write_text("new"))
    assert done[1:] == ["moved", str(tmp_path)]
    assert done[0].endswith(".tmp")


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    host = socket.gethostname()
    dead = tmp_path / f".a.{host}.{2**22 + 1}.tmp"
    others = [
        tmp_path / f".a.{host}.{os.getppid()}.tmp",
        tmp_path / ".a.elsewhere.1.tmp",
        tmp_path / ".a.txt",
    ]
    for path in (dead, *others):
        path.write_text("half")
    replace_file(tmp_path / "a", lambda path: path.write_text("new"))
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "a"])
