"""The program as a process of its own."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from test_cli import TINY


def program(*arguments):
    code = "import sys; from advreg.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.full
def test_ctrl_c_on_a_running_program_saves_it(tmp_path):
    out = tmp_path / "run"
    tiny = [*TINY, "--epochs", "2000", "--out", out]
    running = program("train", *tiny)
    try:
        deadline = time.monotonic() + 120
        while not (out / "last.pt").exists():
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in said
    tally = torch.load(out / "last.pt", weights_only=True)["tally"]
    assert 0 < tally["updates"] < 4000


def test_the_package_and_the_overview_import_nothing_slow():
    code = """
import sys, advreg
assert not {"rich", "advreg.progress", "advreg.training"} & set(sys.modules)
from advreg.cli import main
main([])
slow = {"lightning_fabric", "tensorboard", "sklearn", "datasets", "jsonargparse"}
assert not slow & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
