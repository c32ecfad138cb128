"""The parts of an evaluation: its file of finished pieces, its identity, its calibration."""

import json
import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch.nn import functional

from advreg.errors import RunError
from advreg.evaluation.calibration import brier_scores, calibration_error, confidences
from advreg.evaluation.identity import content_hash
from advreg.evaluation.pieces import Piece, Pieces
from advreg.files import replace_file

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


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "partial.npz"
    Pieces(SETTINGS, path, every=0).put("a", piece())
    for damage in (path.read_bytes()[:-40], b"", b"no archive"):
        path.write_bytes(damage)
        with pytest.raises(RunError, match="is damaged; start the evaluation afresh"):
            Pieces(SETTINGS, path)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_code_in_an_unfinished_evaluation_is_run(tmp_path):
    about = json.dumps({"settings": SETTINGS, "pieces": [["clean", 1, 1, 1]]})
    values = np.array([Hostile(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "partial.npz", about=np.array(about), **{"0": values})
    with pytest.raises(RunError, match="is damaged"):
        Pieces(SETTINGS, tmp_path / "partial.npz")
    assert not (tmp_path / "ran").exists()


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


def state():
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "c": torch.zeros(0)}


def test_the_same_contents_have_the_same_hash():
    other = dict(reversed(state().items()))
    other["a"] = torch.arange(6.0).view(3, 2).flatten().view(2, 3).t().contiguous().t()
    assert content_hash(other) == content_hash(state())


def test_any_change_is_another_hash():
    for change in (
        {"a": torch.tensor([[0.0, 1, 2], [3, 4, 5.001]])},
        {"a": torch.arange(6.0).view(3, 2)},
        {"a": torch.arange(6).view(2, 3)},
        {"b": torch.tensor(8)},
        {"d": torch.zeros(0)},
    ):
        assert content_hash({**state(), **change}) != content_hash(state())


def test_confidence_and_brier_score_by_hand():
    outputs = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    assert confidences(outputs).tolist() == pytest.approx([0.8, 0.6], abs=1e-7)
    scores = brier_scores(outputs, torch.tensor([0, 0]))
    assert scores.tolist() == pytest.approx([2 * 0.2**2, 2 * 0.6**2], abs=1e-7)


def plain_error(confidence, correct, bins=15):
    """Bin by bin, from the definition."""
    total, edges = 0.0, np.linspace(0, 1, bins + 1)
    for place in range(bins):
        last = place == bins - 1
        inside = [
            (c, h)
            for c, h in zip(confidence, correct, strict=True)
            if edges[place] <= c and (c < edges[place + 1] or last)
        ]
        if inside:
            gap = np.mean([h for _, h in inside]) - np.mean([c for c, _ in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


def test_the_calibration_error_is_the_definitions():
    torch.manual_seed(0)
    outputs, targets = 3 * torch.randn(500, 10), torch.randint(0, 10, (500,))
    confidence, correct = confidences(outputs), outputs.argmax(1) == targets
    expected = plain_error(confidence.tolist(), correct.tolist())
    assert calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)
    assert expected > 0.3


def test_a_confidence_of_exactly_one_is_in_the_last_bin():
    """With 0.95 beside it: one bin, so that the two gaps cancel out."""
    confidence = torch.tensor([1.0, 0.95, 0.95, 1.0])
    correct = torch.tensor([True, True, True, False])
    assert calibration_error(confidence, correct) == pytest.approx(abs(0.75 - 0.975))


def test_a_bin_holds_its_lower_edge():
    confidence = torch.tensor([0.2, 0.19999], dtype=torch.float64)
    correct = torch.tensor([True, False])
    assert calibration_error(confidence, correct) == pytest.approx((0.8 + 0.19999) / 2)


def test_without_a_confidence_there_is_no_calibration():
    confidence = torch.tensor([0.7, float("nan")])
    assert math.isnan(calibration_error(confidence, torch.tensor([False, False])))


def test_a_sharp_and_right_network_is_calibrated():
    outputs = 1e4 * functional.one_hot(torch.arange(10), 10).float()
    confidence = confidences(outputs)
    assert calibration_error(confidence, outputs.argmax(1) == torch.arange(10)) == 0
    assert calibration_error(confidence, torch.zeros(10, dtype=torch.bool)) == 1
