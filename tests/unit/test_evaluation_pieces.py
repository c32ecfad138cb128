"""The file of finished pieces, and the clock."""

import json
from contextlib import suppress

import numpy as np
import pytest

from advreg.errors import RunError
from advreg.evaluation.pieces import Piece, Pieces
from advreg.files import replace_file
from advreg.progress import Clock

SETTINGS = {"seed": 0, "limit": None, "epsilons": {"8/255": 8 / 255}}


def piece(value=1.0):
    return Piece(np.full((3, 2), value), 0.5, 30, 3)


def test_pieces_come_back_as_they_were(tmp_path):
    path = tmp_path / "partial.npz"
    with Pieces(SETTINGS, path) as pieces:
        pieces.put("pgd | 8/255 | 0 | 0", piece(1.5))
        pieces.put("clean | 0", Piece(np.array([True, False]), 0.25, 2, 2))
    again = Pieces(SETTINGS, path)
    assert list(again.done) == ["pgd | 8/255 | 0 | 0", "clean | 0"]
    assert np.array_equal(again.done["pgd | 8/255 | 0 | 0"].values, piece(1.5).values)
    assert again.done["clean | 0"].values.dtype == bool
    assert again.done["clean | 0"][1:] == (0.25, 2, 2)
    assert again.seconds == 0.75
    again.remove()
    assert not list(tmp_path.iterdir())


def test_what_is_done_is_saved_when_an_error_passes(tmp_path):
    path = tmp_path / "partial.npz"

    def interrupted():
        with Pieces(SETTINGS, path) as pieces:
            pieces.put("a", piece())
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(Pieces(SETTINGS, path).done) == ["a"]


def test_what_is_done_is_saved_now_and_then_for_a_kill(tmp_path):
    path = tmp_path / "partial.npz"
    Pieces(SETTINGS, path, every=0).put("a", piece())
    assert list(Pieces(SETTINGS, path).done) == ["a"]


def test_other_settings_are_refused_and_named(tmp_path):
    path = tmp_path / "partial.npz"
    Pieces(SETTINGS, path, every=0).put("a", piece())
    with pytest.raises(RunError, match=r"another limit, seed; repeat its settings .* --fresh"):
        Pieces({**SETTINGS, "seed": 1, "limit": 5}, path)
    assert not Pieces({**SETTINGS, "seed": 1}, path, fresh=True).done
    assert Pieces(json.loads(json.dumps(SETTINGS)), path).done


def test_a_broken_stream_inside_the_archive_is_refused(tmp_path):
    path = tmp_path / "partial.npz"
    Pieces(SETTINGS, path, every=0).put("a", piece())
    whole = path.read_bytes()
    for position in range(60, 200):  # what zlib has against it is not what zipfile has
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        with suppress(RunError):
            Pieces(SETTINGS, path)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "partial.npz"
    Pieces(SETTINGS, path, every=0).put("a", piece())
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(RunError, match="is damaged; start the evaluation afresh"):
        Pieces(SETTINGS, path)


def test_a_file_is_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before")

    def fail(file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(RunError, match="disk full"):
        replace_file(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        replace_file(path, lambda path: path.write_bytes(b"whole"))
    assert path.read_text() == "before"
    monkeypatch.undo()
    replace_file(path, lambda path: path.write_bytes(b"whole"))
    assert path.read_text() == "whole"


def test_the_time_left_is_judged_by_what_was_measured_here(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("advreg.progress.time.perf_counter", lambda: now[0])
    told = []
    clock = Clock(told.append)
    clock.expect(100)
    clock.did(50, "before", measured=False)
    now[0] = 2.0
    clock.did(10, "now", measured=True)
    clock.expect(-20)
    clock.did(10, "now", measured=True)
    assert [(t.done, t.total, t.text, t.seconds_left) for t in told] == [
        (50, 100, "before", None),
        (60, 100, "now", pytest.approx(8.0)),
        (70, 80, "now", pytest.approx(1.0)),
    ]
