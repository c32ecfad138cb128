"""The program where its output is full or closed, and where it is interrupted as it starts."""

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from test_cli import TINY

from advreg.cli import main
from advreg.errors import OutputError
from advreg.training import Configuration, Interrupted
from advreg.training import train as train_run

PROGRAM = "import sys; from advreg.cli import main; sys.exit(main())"
FULL = "advreg: The output could not be written (No space left on device); "


class Unwritable(io.StringIO):
    """A stream that takes nothing until it is `mended`."""

    def __init__(self, error):
        super().__init__()
        self.error, self.mended = error, False

    def write(self, text):
        if not self.mended:
            raise self.error
        return super().write(text)

    def fileno(self):
        """rich points it at the null device."""
        return os.open(os.devnull, os.O_WRONLY)


FULL_DISK, CLOSED = OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")
both = pytest.mark.parametrize(
    ("error", "code"), [(FULL_DISK, 2), (CLOSED, 141)], ids=["full", "closed"]
)


@both
@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["sites", "--model", "resnet20"], ["train", "--help"]]
)
def test_an_output_that_cannot_be_written_is_a_sentence(arguments, error, code, capfd):
    with redirect_stdout(Unwritable(error)) as stream:
        assert main(arguments) == code
        assert sys.stdout is stream
    said = capfd.readouterr().err
    assert said.startswith("advreg: The output ")
    assert said.count("\n") == 1


@both
def test_a_training_with_such_an_output_is_saved_and_says_how_to_go_on(
    error, code, tmp_path, capfd
):
    out = tmp_path / "run"
    with redirect_stdout(Unwritable(error)) as stream:
        assert main(["train", *TINY, "--method", "standard", "--epochs", "3", "--data.augment",
                     "none", "--out", str(out)]) == code  # fmt: skip
        said = capfd.readouterr().err
        stream.mended = True
        assert main(["train", "--out", str(out), "--resume"]) == 0
    assert said.startswith("advreg: The output ")
    assert said.endswith(f"; the run is saved. Go on with: advreg train --out {out} --resume\n")
    assert "epoch 3/3" in stream.getvalue()
    assert "epoch 1/3" not in stream.getvalue()


@both
def test_a_training_whose_last_lines_cannot_be_written_is_whole_and_fails(
    error, code, tmp_path, capfd
):
    out = tmp_path / "run"
    with redirect_stdout(Unwritable(error)):
        assert main(["train", *TINY, "--method", "standard", "--data.augment", "none",
                     "--out", str(out)]) == code  # fmt: skip
    assert capfd.readouterr().err.count("\n") == 1
    assert (out / "best.pt").exists()


@both
def test_train_of_python_is_saved_as_well(error, code, tmp_path):
    run = {"data": {"name": "digits", "limit": 40, "validation": 20}, "batch_size": 20}
    run |= {"epochs": 2, "tensorboard": False, "out": str(tmp_path / "run")}
    with (
        redirect_stdout(Unwritable(error)),
        pytest.raises(Interrupted, match="the run is saved") as stopped,
    ):
        train_run(Configuration.from_dict(run))
    assert stopped.value.code == code
    assert (tmp_path / "run" / "last.pt").exists()


def test_no_output_at_all_is_refused_before_the_work(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["train", *TINY, "--out", str(tmp_path / "run")]) == 2
    assert capfd.readouterr().err.startswith("advreg: The output is closed; send it to ")
    assert not (tmp_path / "run").exists()


def test_a_sentence_that_stderr_cannot_take_changes_nothing(monkeypatch):
    for stream in (None, Unwritable(FULL_DISK)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["nothing"]) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_a_full_device_leaves_no_traceback_at_the_program_s_end():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE
        )
    assert done.stderr.decode().startswith(FULL)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_a_closed_pipe_leaves_none_either():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "sites"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.stderr.startswith(b"advreg: The output was closed; ")
    assert (done.returncode, done.stderr.count(b"\n")) == (141, 1)


def test_the_error_names_the_reason():
    assert str(OutputError(OSError(5, "Input/output error"))).count("Input/output error") == 1


INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
from advreg.cli import main
sys.exit(main(["train", "--help"]))
"""


@pytest.mark.parametrize(
    "name", ["jsonargparse", "numpy.exceptions", "numpy.linalg", "torch.utils", "advreg.methods"]
)
def test_ctrl_c_while_modules_are_imported_is_a_word(name):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name=name)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "advreg: Interrupted.\n")


def test_the_handler_of_ctrl_c_is_given_back_and_a_foreign_one_is_kept():
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.default_int_handler, signal.SIG_IGN):
            signal.signal(signal.SIGINT, handler)
            assert main(["nothing"]) == 2
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
