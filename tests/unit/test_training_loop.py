"""Whole trainings, tiny: what they compute, write and refuse."""

import json
import signal
import warnings
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from advreg import errors
from advreg.evaluation import accuracy_and_loss
from advreg.training import (
    Configuration,
    DataSettings,
    Interrupted,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    RunFolder,
    RunSettings,
    ScheduleSettings,
    builders,
    load_run,
    loop,
    session,
    train,
)
from advreg.training.averaging import EqualAverage
from advreg.training.loading import deployed_epoch
from advreg.training.tally import Tally


class Plain(nn.Module):
    """A linear network: no batch statistics, so that batches may be split."""

    def __init__(self, num_classes, in_channels, image_size, **_):
        super().__init__()
        self.linear = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, inputs):
        return self.linear(inputs.flatten(1))


@pytest.fixture
def plain_network(monkeypatch):
    monkeypatch.setattr(session, "build_model", Plain)


def configuration(out, *, limit=64, method=None, optimizer=None, schedule=None, **run):
    run = {"epochs": 2, "batch_size": 32, "tensorboard": False, "device": "cpu", **run}
    return Configuration(
        RunSettings(str(out), **run),
        DataSettings("digits", limit=limit, validation=40),
        ModelSettings("convnet"),
        method or MethodSettings("standard"),
        OptimizerSettings(**(optimizer or {})),
        schedule or ScheduleSettings(),
    )


def weights(out):
    folder = RunFolder(out)
    return folder.load(folder.last)["model"]


def losses(result):
    return [line["train_loss"] for line in result.metrics]


def test_a_run_leaves_its_configuration_metrics_checkpoints_and_events(tmp_path):
    out = tmp_path / "runs" / "first"
    given = configuration(out, method=MethodSettings("layerwise"), tensorboard=True)
    result = train(given, quiet=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "best.pt", "config.yaml", "last-1.pt", "last.pt", "metrics.jsonl", "tensorboard",
    ]  # fmt: skip
    assert list((out / "tensorboard").iterdir())
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["method"]["memory"] == "slot"  # a default, spelt out
    assert "seed" not in saved["method"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.metrics
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["passes"] for line in lines] == [2, 4]
    assert lines[-1]["learning_rate"] == 0
    assert 0 <= lines[-1]["train_accuracy"] <= 1
    assert result.best_accuracy == max(line["validation_accuracy"] for line in lines)


def test_a_network_learns_and_the_best_epoch_is_what_is_loaded(tmp_path):
    given = configuration(tmp_path / "a", limit=256, epochs=8)
    result = train(given, quiet=True)
    assert result.best_accuracy > 0.7
    model, loaded = load_run(tmp_path / "a")
    assert loaded.data == builders.resolve(given).data
    assert not model.training
    validation = builders.build_data(given.data).validation
    assert accuracy_and_loss(model, validation)[0] == result.best_accuracy


def test_the_best_epoch_of_a_method_that_is_attacked_is_so_under_attack_too():
    def best(*figures, attacked):
        tally = Tally()
        for clean, pgd in figures:
            tally.next_epoch()
            record = {"validation_accuracy": clean, "monitor_pgd": pgd}
            tally.note_if_best({name: value for name, value in record.items() if value}, attacked)
        return tally.best_epoch, tally.best_accuracy

    rows = [(0.5, 0.3), (0.9, 0.1), (0.8, 0.3), (0.6, 0.4)]
    assert best(*rows, attacked=False) == (2, 0.9)
    assert best(*rows, attacked=True) == (3, 0.8)
    assert best((0.9, None), (0.5, 0.1), (0.9, None), attacked=True) == (2, 0.5)
    assert best((None, None), attacked=False) == (0, -1.0)
    tally = Tally(epoch=3, best_score=0.9, best_accuracy=0.9, best_epoch=2)
    assert not tally.note_if_best({"validation_accuracy": 0.8}, attacked=False)
    assert tally.note_if_best({"validation_accuracy": 0.8, "monitor_pgd": 0.2}, attacked=True)
    assert (tally.best_epoch, tally.best_score) == (3, 0.5)
    assert best((0.5, None), (0.9, None), (0.9, None), (0.8, None), attacked=False) == (3, 0.9)


@pytest.mark.parametrize("monitor", [True, False])
def test_the_monitor_chooses_the_best_epoch_of_a_method_that_attacks(tmp_path, monitor):
    method = MethodSettings("rs_fgsm", {"epsilon": 0.1})
    given = configuration(tmp_path, method=method, limit=256, epochs=4, monitor=monitor)
    result = train(given, quiet=True)
    names = ["validation_accuracy", "monitor_pgd"][: 1 + monitor]
    scores = [sum(line[name] for name in names) for line in result.metrics]
    assert result.best_epoch == len(scores) - scores[::-1].index(max(scores))
    assert all(("monitor_pgd" in line) == monitor for line in result.metrics)


def test_the_last_epoch_s_network_is_loaded_by_its_name(tmp_path):
    train(configuration(tmp_path, epochs=3), quiet=True)
    folder = RunFolder(tmp_path)
    best = folder.load(folder.best)
    best["model"] = {name: torch.zeros_like(value) for name, value in best["model"].items()}
    folder.save(folder.best, best)
    assert not any(value.any() for value in load_run(tmp_path)[0].state_dict().values())
    last = load_run(tmp_path, weights="last")[0].state_dict()
    for name, value in folder.load(folder.last)["model"].items():
        assert torch.equal(last[name], value)
    assert deployed_epoch(folder, "last") == 3
    assert deployed_epoch(folder, "best") == folder.load(folder.best)["epoch"]
    with pytest.raises(errors.ConfigurationError, match="best, last"):
        load_run(tmp_path, weights="first")


def test_the_same_seed_trains_the_same_network_and_another_one_does_not(tmp_path):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(configuration(tmp_path / out, seed=seed, epochs=1), quiet=True)
    first, same, other = (weights(tmp_path / out) for out in "abc")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


@pytest.mark.parametrize(
    ("name", "settings", "calls"),
    [
        ("free", {"replays": 2}, 1),  # each replay counts
        ("label_smoothing", {}, 1),
        ("input_gradient", {"uniform": True}, 2),  # its second call is against the uniform target
    ],
)
def test_the_recorded_accuracy_is_what_a_recount_gives(
    name, settings, calls, tmp_path, monkeypatch
):
    seen = []

    def counting(outputs, targets):
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        seen.append([int(a == b) for a, b in zip(outputs.argmax(1), labels, strict=True)])
        return torch.nn.functional.cross_entropy(outputs, targets)

    monkeypatch.setattr(builders, "build_criterion", lambda *_: counting)
    given = configuration(tmp_path / "a", epochs=1, method=MethodSettings(name, settings))
    accuracy = train(given, quiet=True).metrics[0]["train_accuracy"]
    right = [hit for step in seen[::calls] for hit in step]
    assert len(right) == 64 * settings.get("replays", 1)
    assert accuracy == sum(right) / len(right)


def test_a_method_with_a_seed_takes_the_runs():
    one = builders.method_of(configuration("x", seed=5, method=MethodSettings("layerwise")))
    assert one.seed == 5
    own = MethodSettings("layerwise", {"seed": 2})
    assert builders.method_of(configuration("x", seed=5, method=own)).seed == 2


def test_a_method_is_told_the_validation_loss(tmp_path):
    auto = MethodSettings("layerwise", {"epsilon": "auto", "sites": ["blocks.*"]})
    result = train(configuration(tmp_path / "run", epochs=12, method=auto))
    folder = RunFolder(tmp_path / "run")
    state = folder.load(folder.last)["method"]
    assert state["floor"]["validation"] == result.metrics[-1]["validation_loss"]
    assert state["floor"]["rose"]
    assert state["adversary"]["scale"] > 0


def test_accumulated_mini_batches_equal_a_large_one(plain_network, tmp_path):
    """Of 74 images the last group holds a whole mini-batch of 8 and a smaller one of 2."""
    given = {"limit": 74, "optimizer": {"clip": 0.05}}  # of the whole gradient, not of each part
    large = configuration(tmp_path / "a", batch_size=32, **given)
    small = configuration(tmp_path / "b", batch_size=8, accumulate=4, **given)
    assert train(large, quiet=True).metrics[-1]["updates"] == 6
    assert train(small, quiet=True).metrics[-1]["updates"] == 6
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    torch.testing.assert_close(first["linear.weight"], second["linear.weight"])


def test_clipping_bounds_the_step(plain_network, tmp_path):
    optimizer = {"clip": 0.01, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    schedule = ScheduleSettings("cosine")
    torch.manual_seed(0)
    before = Plain(10, 1, 8).linear
    given = configuration(
        tmp_path / "a", epochs=1, batch_size=64, optimizer=optimizer, schedule=schedule
    )
    train(given, quiet=True)
    after = weights(tmp_path / "a")
    moved = [after["linear.weight"] - before.weight, after["linear.bias"] - before.bias]
    norm = torch.cat([part.flatten() for part in moved]).norm()
    assert norm.item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_with_an_average_the_average_is_deployed(tmp_path):
    out = tmp_path / "a"
    train(configuration(out, epochs=1, optimizer={"ema": 0.9, "name": "adamw"}), quiet=True)
    folder = RunFolder(out)
    best, last = folder.load(folder.best), folder.load(folder.last)
    assert best["deployed"] == "averaged weights"
    average, trained = last["averaged"]["weights"], last["model"]
    assert not torch.equal(average["linear.weight"], trained["linear.weight"])
    assert torch.equal(best["model"]["linear.weight"], average["linear.weight"])
    folder.best.unlink()
    assert torch.equal(load_run(out)[0].state_dict()["linear.weight"], average["linear.weight"])


@pytest.mark.parametrize("settings", [{"precision": "bf16-mixed"}, {"channels_last": True}])
def test_other_precisions_and_layouts_train_nearly_alike(tmp_path, settings):
    expected = losses(train(configuration(tmp_path / "a"), quiet=True))
    found = losses(train(configuration(tmp_path / "b", **settings), quiet=True))
    assert found == pytest.approx(expected, rel=0.05)


class Puts(Plain):
    """With an operation in training that has no deterministic form, on a CPU neither."""

    def forward(self, inputs):
        logits = super().forward(inputs)
        if not self.training:
            return logits
        return logits.put(torch.arange(logits.numel()).view_as(logits), logits)


def test_a_deterministic_run_refuses_other_operations(tmp_path, monkeypatch):
    try:
        train(configuration(tmp_path / "a", deterministic=True, threads=1), quiet=True)
        assert torch.are_deterministic_algorithms_enabled()
        monkeypatch.setattr(session, "build_model", Puts)
        with pytest.raises(errors.UnsupportedError, match=r"the result of put_.* differs from run"):
            train(configuration(tmp_path / "b", deterministic=True, threads=1), quiet=True)
    finally:
        torch.use_deterministic_algorithms(False)


def test_nothing_is_written_for_what_cannot_work(tmp_path):
    for change, error in (
        ({"method": MethodSettings("nothing")}, errors.ConfigurationError),
        ({"method": MethodSettings("layerwise", {"epsilon": -1})}, errors.ConfigurationError),
        ({"method": MethodSettings("layerwise", {"sites": ["nowhere"]})}, errors.SiteError),
        ({"precision": "16-mixed"}, errors.ConfigurationError),
        ({"limit": 10**6}, errors.AdvregError),
    ):
        with pytest.raises(error):
            train(configuration(tmp_path / "a", **change), quiet=True)
        assert not (tmp_path / "a").exists()


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(errors.RunError, match="it holds no run"):
        train(configuration(tmp_path), quiet=True)
    with pytest.raises(errors.RunError, match="--out"):
        train(configuration(tmp_path), resume=True, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(errors.RunError, match="is a file"):
        train(configuration(tmp_path / "mine.txt"), quiet=True)


def test_a_run_is_not_resumed_under_other_settings(tmp_path):
    train(configuration(tmp_path / "a"), quiet=True)
    with pytest.raises(errors.RunError, match="epochs was 2, is 3"):
        train(configuration(tmp_path / "a", epochs=3), resume=True, quiet=True)


VIEWS = {"augment": "crop_flip", "padding": 4, "crop_step": 2, "view_epochs": 2, "view_block": 2}


def test_the_loader_has_the_views_that_were_asked_for(tmp_path):
    wanted = configuration(tmp_path / "a")
    loader = loop.Session(replace(wanted, data=replace(wanted.data, **VIEWS))).loader
    assert {name: getattr(loader, name) for name in VIEWS} == VIEWS


def blocks(wanted, epochs):
    run = replace(wanted.run, epochs=epochs)
    return replace(wanted, run=run, data=replace(wanted.data, view_epochs=2, view_block=1))


def test_a_training_that_ends_between_the_visits_of_a_block_says_so(tmp_path):
    wanted = configuration(tmp_path / "a")
    with pytest.raises(errors.ConfigurationError, match=r"epochs is 1, .* multiple of 2"):
        loop.Session(blocks(wanted, 1))
    with pytest.warns(errors.UnevenVisitsWarning, match="equally often after every 2 epochs"):
        loop.Session(blocks(wanted, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.Session(blocks(wanted, 4))


def test_batch_statistics_of_averaged_weights_are_of_all_images_with_blocks(tmp_path, monkeypatch):
    seen = []

    def after_epoch(self, model, epoch, inputs):
        seen.append(len(torch.cat(list(inputs)).unique(dim=0)))

    monkeypatch.setattr(EqualAverage, "after_epoch", after_epoch)
    wanted = blocks(configuration(tmp_path / "a"), 2)
    wanted = replace(wanted, optimizer=replace(wanted.optimizer, swa=0.5))
    train(wanted, quiet=True)
    assert seen == [len(loop.Session(wanted).splits.train)] * 2


def test_views_that_would_change_nothing_are_refused(tmp_path):
    wanted = configuration(tmp_path / "a")
    data = replace(wanted.data, augment="none", view_epochs=2)
    with pytest.raises(errors.ConfigurationError, match="where nothing is cropped"):
        train(replace(wanted, data=data), quiet=True)


def test_the_signal_handlers_are_put_back(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(configuration(tmp_path / "whole"), quiet=True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    monkeypatch.setattr(loop, "finish_epoch", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(configuration(tmp_path / "a"), quiet=True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_lines_are_printed_where_there_is_no_terminal(tmp_path, capsys):
    train(configuration(tmp_path / "a"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2  train ")
    assert "validation" in lines[1]
