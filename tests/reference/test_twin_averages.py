"""Averaged weights beside PyTorch's own stochastic weight averaging, over whole runs."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from advreg.evaluation import accuracy_and_loss
from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    RunFolder,
    RunSettings,
    load_run,
    loop,
    train,
)
from advreg.training.averaging import EqualAverage, MovingAverage

EPOCHS = 4


def configuration(out, method="rs_fgsm", epochs=EPOCHS, **optimizer):
    return Configuration(
        RunSettings(str(out), epochs, batch_size=20, tensorboard=False, device="cpu"),
        DataSettings("digits", limit=50, validation=30, augment="crop_flip", padding=1),
        ModelSettings("convnet"),
        MethodSettings(method, {"epsilon": 0.1}),
        OptimizerSettings(**optimizer),
    )


def by_hand(out, monkeypatch, method):
    """The run without averages: its end, and the network and mini-batches of each epoch."""
    ends, plain = [], loop.finish_epoch

    def finish(session, *rest):
        images = [batch.inputs for batch in session.loader.epoch(session.tally.epoch)]
        ends.append((copy.deepcopy(session.model), images))
        plain(session, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish_epoch", finish)
        train(configuration(out, method), quiet=True)
    folder = RunFolder(out)
    return folder.load(folder.last), ends


@pytest.mark.parametrize("method", ["rs_fgsm", "layerwise"])
def test_the_deployed_network_is_torchs_average(tmp_path, monkeypatch, method):
    plain, ends = by_hand(tmp_path / "plain", monkeypatch, method)
    result = train(configuration(tmp_path / "swa", method, swa=0.5), quiet=True)
    folder = RunFolder(tmp_path / "swa")
    last = folder.load(folder.last)
    for name, value in plain["model"].items():
        assert last["model"][name].equal(value), name  # the training itself is the same
    average = AveragedModel(ends[2][0])
    for model, _ in ends[2:]:
        average.update_parameters(model)
    update_bn(ends[-1][1], average.module)
    assert last["averaged"]["count"] == 2
    for name, value in average.module.state_dict().items():
        assert last["averaged"]["weights"][name].equal(value), name
        averaged = not name.startswith("normalize")
        assert value.equal(plain["model"][name]) != averaged, name
    best = folder.load(folder.best)
    averages = best["epoch"] > 2
    assert best["deployed"] == ("averaged weights" if averages else "trained weights")
    folder.best.unlink()  # the last one serves
    network, _ = load_run(tmp_path / "swa")
    assert network.state_dict().keys() == plain["model"].keys()
    loaded = network.state_dict()
    assert all(value.equal(average.module.state_dict()[name]) for name, value in loaded.items())
    assert len(result.metrics) == EPOCHS


def test_what_is_validated_is_what_is_deployed(tmp_path):
    result = train(configuration(tmp_path / "a", swa=0.5), quiet=True)
    folder = RunFolder(tmp_path / "a")
    folder.best.unlink()
    network, loaded = load_run(tmp_path / "a")
    assert loaded.optimizer.swa == 0.5
    images = loop.Session(configuration(tmp_path / "b")).splits.validation
    accuracy, loss = accuracy_and_loss(network, images, 500, "cpu")
    assert result.metrics[-1]["validation_accuracy"] == accuracy
    assert result.metrics[-1]["validation_loss"] == pytest.approx(loss, rel=1e-6)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


@pytest.mark.parametrize(("start", "epochs", "first"), [(0, 3, 0), (0.29, 100, 29), (0.75, 1, 0)])
def test_the_share_left_out_and_never_the_last_epoch(start, epochs, first):
    average, model = EqualAverage(small(), start, epochs), small()
    for epoch in range(epochs):
        average.after_epoch(model, epoch, iter([torch.randn(3, 4)]))
        assert (average.network is None) == (epoch < first)
    assert average.state_dict()["count"] == epochs - first


def test_new_batch_statistics_draw_no_random_number_of_the_trainings():
    average, before = EqualAverage(small(), 0, 1), torch.get_rng_state()
    model = small()
    torch.set_rng_state(before)
    inputs = torch.arange(12.0).view(3, 4)
    average.after_epoch(model.train(), 0, iter([inputs]))
    assert torch.get_rng_state().equal(before)
    hidden = model[0](inputs)
    torch.testing.assert_close(average.network[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(average.network[1].running_var, hidden.var(0))


def test_an_average_that_has_not_begun_is_restored_as_such():
    for build in (lambda: EqualAverage(small(), 0.5, 2), lambda: MovingAverage(small(), 0.9)):
        average, model = build(), small()
        assert average.state_dict() is None
        average.load_state_dict(None)
        assert average.network is None
        average.after_step(model)
        average.after_epoch(model, 1, iter([torch.randn(3, 4)]))
        other = build()
        other.load_state_dict(average.state_dict())
        assert other.state_dict()["count"] == 1
        assert other.network[0].weight.equal(model[0].weight)
