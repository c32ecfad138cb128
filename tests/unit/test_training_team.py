"""Sharing a run between processes: refusals, and states divided among another number of ranks."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Forked

from advreg.errors import ConfigurationError
from advreg.hashing.settings import HashConfiguration
from advreg.layerwise.example_store import ExampleStore
from advreg.layerwise.packed import PackedWords
from advreg.layerwise.store import SlotStore
from advreg.training import RunFolder, RunSettings
from advreg.training.launch import placed
from advreg.training.redistribution import redistributed
from advreg.training.team import Team, seed_of_rank

EXAMPLES = 11


def saved(rank, size, packed):
    """The state of a rank whose examples' rows hold their numbers' signs, or the numbers."""
    numbers = torch.arange(rank, EXAMPLES, size)
    rows = numbers[:, None].float().expand(-1, 3).contiguous()
    store, slots = ExampleStore(), SlotStore()
    store.rows = PackedWords.of((rows % 3) - 1, (0, 1), 0, len(rows)) if packed else rows
    store.visits = numbers + 100
    slots.write(torch.ones(4, 3))
    random = {"cpu": torch.full((2,), rank)}
    return {
        "method": {
            "examples": store.state_dict(),
            "slots": [{"store": slots.state_dict()}, {"words": {"codes": 1}, "count": 2, "age": 3}],
            "generators": {"cpu": rank},
        },
        "tally": {"step": 9, "loss": 1.5, "correct": 2.0, "examples": 4, "epoch": 1},
        "random": random,
        "warnings": [],
    }


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), (2, 3), (3, 2)])
def test_rows_follow_their_examples_and_positions_begin_empty(before, now, packed):
    parts = [saved(rank, before, packed) for rank in range(before)]
    for rank in range(now):
        part, wanted = redistributed(parts, rank, now, 5, EXAMPLES), saved(rank, now, packed)
        found, expected = ExampleStore(), ExampleStore()
        found.load_state_dict(part["method"]["examples"])
        expected.load_state_dict(wanted["method"]["examples"])
        assert torch.equal(found.visits, expected.visits)
        values = [one.rows.values() if packed else one.rows for one in (found, expected)]
        assert torch.equal(*values)
        store, words = part["method"]["slots"]
        assert store["store"]["rows"] is None
        assert store["store"]["count"] == words["count"] == 0
        assert words["words"] is None
        assert words["age"] == 3
        new = rank >= before
        assert part["method"]["generators"] == ({} if new else {"cpu": rank})
        assert part["random"] is None if new else part["random"] is parts[rank]["random"]
        assert part["tally"]["step"] == 5
        assert part["tally"]["examples"] == (4 * before if rank == 0 else 0)


def test_rows_of_what_does_not_stay_with_its_rank_begin_empty():
    parts = [saved(rank, 2, False) for rank in (0, 1)]
    examples = redistributed(parts, 0, 1, 5, None)["method"]["examples"]
    assert examples["rows"] is examples["visits"] is None


def test_ranks_draw_from_seeds_of_their_own():
    seeds = {seed_of_rank(seed, rank) for seed in range(4) for rank in range(4)}
    assert len(seeds) == 16
    assert seed_of_rank(7, 0) == 7


def test_alone_nothing_is_exchanged():
    team, weight = Team(), torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    team.average([weight])
    team.lead([weight])
    assert team.any(True, None) == (True, False)
    assert team.total(1.0) == (1.0,)
    assert team.gather("own") == ["own"]
    assert team.share("own") == "own"
    assert weight.grad.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"devices": 0}, "devices is 0"),
        ({"batch_size": 9, "devices": 2}, "batch_size is 9; give a multiple of devices, 2"),
        ({"strategy": "fsdp"}, "one of auto, ddp"),
    ],
)
def test_settings_that_cannot_be_shared_are_refused(settings, mend):
    with pytest.raises(ConfigurationError, match=mend):
        RunSettings("out", **settings)


def test_codes_are_trained_on_one_device():
    with pytest.raises(ConfigurationError, match="devices is 2; give 1"):
        HashConfiguration(RunSettings("out", devices=2))


def test_a_place_is_that_of_torchrun(monkeypatch):
    run = RunSettings("out", devices=2, device="cpu")
    assert (placed(run).rank, placed(run).size) == (0, 2)
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert placed(RunSettings("out")).size == 1
    four = placed(RunSettings("out", strategy="ddp", device="cpu"))
    assert (four.rank, four.size, four.local) == (3, 4, 1)
    with pytest.raises(ConfigurationError, match="torchrun has started 4 processes"):
        placed(run)


def test_more_devices_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigurationError, match="this machine has 1 GPU; lower it"):
        placed(RunSettings("out", devices=2))


COMMAND = [
    *("train", "--data", "digits", "--model", "convnet", "--method", "layerwise"),
    *("--method.memory", "example", "--limit", "100", "--batch_size", "20", "--device", "cpu"),
    *("--devices", "2", "--checkpoint_every", "1", "--tensorboard", "false"),
]


def started(out, *more):
    return Forked(*COMMAND, "--out", out, *more, said=out.with_suffix(".err"))


def children(process):
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()]


def lives(number):
    """Whether a process runs; one that has ended and waits for its parent has no command."""
    try:
        return bool(Path(f"/proc/{number}/cmdline").read_bytes())
    except OSError:
        return False


def trains(folder, updates):
    """Waits until so many optimizer steps are saved."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if folder.last.exists() and folder.load(folder.last)["tally"]["updates"] >= updates:
            return
        time.sleep(0.02)
    raise AssertionError("the run does not train")


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_rank_ends_the_run_which_resumes_to_the_same(tmp_path):
    folder, said = RunFolder(tmp_path / "run"), tmp_path / "run.err"
    run = started(folder.path, "--epochs", "15")
    whole = started(tmp_path / "whole", "--epochs", "15")
    trains(folder, 3)
    (other,) = children(run)
    os.kill(other, signal.SIGKILL)
    assert run.wait() == 2
    assert said.read_text().count("advreg:") == 1
    assert "Another process of the run has ended" in said.read_text()
    run = started(folder.path, "--resume")
    trains(folder, folder.load(folder.last)["tally"]["updates"] + 3)
    (other,) = children(run)
    run.kill()
    deadline = time.monotonic() + 60
    while lives(other):
        assert time.monotonic() < deadline, "a process of the run lives on"
        time.sleep(0.1)
    resumed = started(folder.path, "--resume")
    for one, words in ((resumed, said), (whole, tmp_path / "whole.err")):
        assert one.wait(900) == 0, words.read_text()
    states = [RunFolder(tmp_path / name) for name in ("run", "whole")]
    first, second = (one.load(one.last) for one in states)
    for name, weight in first["model"].items():
        assert torch.equal(weight, second["model"][name])
    assert len(first["ranks"]) == 1
    assert states[0].read_metrics()[-1]["train_loss"] == states[1].read_metrics()[-1]["train_loss"]
