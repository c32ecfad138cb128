"""An evaluation that was killed goes on, and finds what an undisturbed one finds."""

import signal
import subprocess
import sys
import time

import evaluated
import numpy as np
import pytest
from evaluated import SETTINGS, Images, found_in, images, network, without_square

from advreg.errors import RunError
from advreg.evaluation import evaluate_suite
from advreg.evaluation.pieces import Pieces

PARTIAL = "evaluation.partial.npz"
STANDARD = {"suite": "standard", "corruptions": "own", "epsilons": [0.1]}


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def _without_square(monkeypatch):
    without_square(monkeypatch)


@pytest.fixture
def measured(monkeypatch):
    """The names of the pieces that are measured."""
    names, put = [], Pieces.put

    def recording(self, name, piece):
        names.append(name)
        put(self, name, piece)

    monkeypatch.setattr(Pieces, "put", recording)
    return names


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        *(({"corruptions": "own"}, share) for share in (0.0, 0.6)),
        pytest.param(STANDARD, 0.5, marks=pytest.mark.full),
    ],
)
def test_a_killed_evaluation_goes_on_to_the_same_result(tmp_path, measured, settings, share):
    def kill(progress):
        if progress.done >= share * progress.total:
            raise Killed

    with pytest.raises(Killed):
        found_in(**settings, folder=tmp_path, progress=kill)
    done = set(measured)
    with np.load(tmp_path / PARTIAL) as file:
        assert len(file.files) - 1 == len(done) > 0
    found = found_in(**settings, folder=tmp_path)
    everything = list(measured)
    assert len(everything) == len(set(everything)) > len(done)
    measured.clear()
    assert found == found_in(**settings)
    assert measured == everything


@pytest.mark.full
def test_a_process_that_was_killed_outright_leaves_what_it_had_done(tmp_path, measured):
    process = subprocess.Popen([sys.executable, evaluated.__file__, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / PARTIAL).exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = found_in(**STANDARD, folder=tmp_path)
    again = len(measured)
    measured.clear()
    assert found == found_in(**STANDARD)
    assert 0 < again < len(measured)


def test_another_evaluation_does_not_go_on_with_this_one(tmp_path):
    found_in(folder=tmp_path)
    before = (tmp_path / PARTIAL).read_bytes()
    changes = {"seed": 1, "limit": 30, "suite": "standard", "epsilons": [0.1], "batch_size": 10}
    for name, value in changes.items():
        with pytest.raises(RunError, match=rf"another .*{name}.* --fresh"):
            found_in(folder=tmp_path, **{name: value})
    assert (tmp_path / PARTIAL).read_bytes() == before
    with pytest.raises(RunError, match="another model"):
        evaluate_suite(network(2), images(), folder=tmp_path, **SETTINGS)
    other = Images(255 - images().images, images().targets)
    with pytest.raises(RunError, match="another data"):
        evaluate_suite(network(), other, folder=tmp_path, **SETTINGS)
    assert found_in(folder=tmp_path, fresh=True, limit=20) == found_in(limit=20)
