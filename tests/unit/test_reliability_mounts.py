"""A disk that is full in mid-write, and one that is read-only: real ones, which root may mount."""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
import yaml
from test_reliability_folder import after, edit, whole
from test_training_loop import configuration

from advreg.cli import main
from advreg.errors import InUseError, RunError
from advreg.study.compare import plan
from advreg.study.execution import execute, is_free
from advreg.study.reading import read_study
from advreg.training import RunFolder, train
from advreg.training.lock import Lock

STUDY = """
base:
  data: {name: digits, limit: 40, validation: 20}
  model: convnet
  epochs: 1
  batch_size: 20
arms: {plain: {method: standard}}
seeds: 1
evaluation: {images: 20, attacked: 10, epsilons: [0.1], steps: 1}
"""


def mount(*options):
    command = ["mount", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path):
    """A disk of eight mebibytes in memory."""
    if not sys.platform.startswith("linux") or os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root on Linux can mount a disk")
    place = tmp_path / "disk"
    place.mkdir()
    if (refused := mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", place)).returncode:
        pytest.skip(f"mounting is refused: {refused.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk, room=0):
    """Leaves so many bytes of a disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(0, file.tell() - room))


def contents(folder):
    """Every file below a folder, by name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "filler")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(arguments, capsys, sentence):
    """That a command ends with one sentence and exit code 2."""
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("advreg: ")
    assert said.count("\n") == 1
    assert sentence in said


def commands(disk):
    run, limits = disk / "run", ["--limit", "8", "--steps", "1", "--epsilons", "0.1"]
    return {
        "train": ["train", "--config", disk / "given.yaml", "--out", disk / "new"],
        "resume": ["train", "--out", run, "--resume"],
        "evaluate": ["evaluate", run, *limits],
        "study": ["compare", "run", disk / "study.yaml", "--out", disk / "study", "--index", "0"],
        "collect": ["compare", "collect", disk / "study.yaml", "--out", disk / "study"],
    }


@pytest.fixture
def used(disk):
    """A disk with a run that is not at its end and a study whose one run is done."""
    given = configuration(disk / "run", threads=1)
    train(given, quiet=True)
    (disk / "given.yaml").write_text(yaml.safe_dump(given.to_dict()))
    (disk / "study.yaml").write_text(STUDY)
    (run,) = plan(read_study(disk / "study.yaml"), disk / "study")
    assert execute(run, disk / "study") == "done"
    return disk


def test_a_disk_that_fills_in_mid_run_keeps_the_last_good_checkpoint(disk, monkeypatch, capsys):
    run = RunFolder(disk / "run")
    after(monkeypatch, 3, lambda: fill(disk, room=40_000))  # in the second epoch
    (disk / "given.yaml").write_text(yaml.safe_dump(configuration(run.path).to_dict()))
    command = ["train", "--config", disk / "given.yaml"]
    refused(command, capsys, "(No space left on device); make room on the disk. What was saved")
    assert whole(run) == 1
    monkeypatch.undo()
    (disk / "filler").unlink()
    assert len(train(configuration(run.path), resume=True, quiet=True).metrics) == 2


def test_on_a_full_disk_nothing_is_half_written(used, capsys):
    shutil.rmtree(used / "study" / "plots", ignore_errors=True)
    fill(used)
    before = contents(used)
    for name, command in commands(used).items():
        if name != "study":  # its run is done, and nothing is to be written
            refused(command, capsys, "(No space left on device)")
        assert contents(used) == before, name
    (used / "filler").unlink()
    shutil.rmtree(used / "new")  # an empty folder
    for name, command in commands(used).items():
        assert main([str(one) for one in command]) == 0, name


def test_a_study_on_a_full_disk_ends(disk, tmp_path, capsys):
    """Its runs are not taken for another process's, which one would wait for."""
    (tmp_path / "study.yaml").write_text(STUDY)
    (run,) = plan(read_study(tmp_path / "study.yaml"), disk / "study")
    fill(disk)
    with pytest.raises(RunError, match="No space left"):
        execute(run, disk / "study")
    with pytest.raises(RunError, match="No space left"):
        is_free(run, disk / "study")
    (disk / "filler").unlink()
    assert execute(run, disk / "study") == "done"


def test_a_read_only_disk_is_a_sentence_and_changes_nothing(used, capsys):
    before = contents(used)
    assert mount("-o", "remount,ro", used).returncode == 0
    for name, command in commands(used).items():
        refused(command, capsys, "cannot be written")
        assert contents(used) == before, name
    with pytest.raises(OSError, match="Read-only"):  # root's rights do not matter here
        edit(RunFolder(used / "run"), seed=1)


def test_a_lock_that_cannot_be_signed_is_not_held(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = Lock(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("os.write", full)
        for _ in range(2):
            with pytest.raises(RunError, match="make room on the disk") as caught:
                lock.__enter__()
            assert not isinstance(caught.value, InUseError)
    assert not list(tmp_path.iterdir())
    with Lock(tmp_path), pytest.raises(InUseError):
        lock.__enter__()
