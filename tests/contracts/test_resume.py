"""A run that was interrupted anywhere and resumed equals one that was not, to the bit."""

import json
import signal

import pytest
import torch

from advreg.training import (
    Configuration,
    DataSettings,
    Interrupted,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    RunFolder,
    RunSettings,
    loop,
    session,
    train,
)

STEPS = 3
EPOCHS = 3
POINTS = {"mid first epoch": 1, "end of an epoch": STEPS, "mid last epoch": 2 * STEPS + 2}

METHODS = {
    "standard": {},
    "dropout": {"p": 0.5},  # draws from torch's random state
    "fgsm": {"epsilon": 0.1},
    "layerwise-slot": {"epsilon": 0.1},
    "layerwise-example": {"epsilon": 0.1, "memory": "example", "sites": ["input"]},
    "layerwise-accumulating": {
        "epsilon": 0.1,
        "memory": "example",
        "sites": ["input"],
        "step_size": 0.05,
        "start": "random",
        "warmup_epochs": 2,
    },
    "layerwise-random": {"epsilon": 0.1, "direction": "random"},
    "layerwise-paired": {"epsilon": 0.1, "pair": True},
    "nuat-swa": {"epsilon": 0.1},
    "fgsm_pgi": {"epsilon": 0.1},
    "tdat": {"epsilon": 0.1},
}


def configuration(out, method, **run):
    average = {"swa": 0.4} if method.endswith("-swa") else {"ema": 0.9}
    return Configuration(
        RunSettings(str(out), EPOCHS, batch_size=20, tensorboard=False, device="cpu", **run),
        # The last batch is smaller; crops and flips, so that example memory goes through views.
        DataSettings("digits", limit=50, validation=30, augment="crop_flip", padding=1),
        ModelSettings("convnet"),
        MethodSettings(method.partition("-")[0], METHODS[method]),
        OptimizerSettings(clip=1.0, **average),
    )


def act_after(monkeypatch, updates, act):
    """Does something after so many optimizer steps, once."""
    plain = loop.update

    def update(session, group):
        plain(session, group)
        if session.tally.updates == updates:
            monkeypatch.setattr(loop, "update", plain)
            act()

    monkeypatch.setattr(loop, "update", update)


def outcome(out):
    """Everything that a run leaves behind but times."""
    folder = RunFolder(out)
    last, best = folder.load(folder.last), folder.load(folder.best)
    last["tally"].pop("seconds")
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") > 0
        assert line.pop("seconds_per_step") > 0
    return {"last": last, "best": best, "metrics": lines}


def assert_same(first, second, path=""):
    assert type(first) is type(second), path
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, path
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    else:
        assert first == second, path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The outcome of each method's whole run, trained once."""
    outcomes = {}

    def of(method):
        if method not in outcomes:
            out = tmp_path_factory.mktemp("whole") / "run"
            train(configuration(out, method), quiet=True)
            outcomes[method] = outcome(out)
        return outcomes[method]

    return of


@pytest.mark.parametrize(
    ("method", "point"),
    [
        ("layerwise-slot", "mid first epoch"),
        *[
            pytest.param("layerwise-slot", point, marks=pytest.mark.full)
            for point in ("end of an epoch", "mid last epoch")
        ],
        ("layerwise-example", "mid last epoch"),
        ("nuat-swa", "mid last epoch"),
        *[
            pytest.param(method, "mid last epoch", marks=pytest.mark.full)
            for method in METHODS
            if method not in ("layerwise-slot", "layerwise-example", "nuat-swa")
        ],
    ],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    method, point, undisturbed, tmp_path, monkeypatch
):
    expected = undisturbed(method)
    out = tmp_path / "run"
    act_after(monkeypatch, POINTS[point], lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="--resume"):
        train(configuration(out, method), quiet=True)
    assert len(RunFolder(out).read_metrics()) < EPOCHS
    torch.manual_seed(99)  # another process would not have this one's random state
    train(configuration(out, method), resume=True, quiet=True)
    assert_same(outcome(out), expected)


@pytest.mark.full
def test_accumulated_and_in_bfloat16_it_ends_so_too(tmp_path, monkeypatch):
    run = {"accumulate": 2, "precision": "bf16-mixed"}
    whole, method = tmp_path / "whole" / "run", "layerwise-accumulating"
    train(configuration(whole, method, **run), quiet=True)
    out = tmp_path / "run"
    act_after(monkeypatch, 3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train(configuration(out, method, **run), quiet=True)
    assert RunFolder(out).load(out / "last.pt")["tally"]["step"] == 2  # in the middle of an epoch
    torch.manual_seed(99)
    train(configuration(out, method, **run), resume=True, quiet=True)
    assert_same(outcome(out), outcome(whole))


def test_an_interrupt_while_validating_waits_for_the_epochs_checkpoint(
    undisturbed, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    measure = session.accuracy_and_loss

    def interrupted(*arguments):
        monkeypatch.setattr(session, "accuracy_and_loss", measure)
        signal.raise_signal(signal.SIGTERM)
        return measure(*arguments)

    monkeypatch.setattr(session, "accuracy_and_loss", interrupted)
    with pytest.raises(Interrupted):
        train(configuration(out, "layerwise-slot"), quiet=True)
    assert len(RunFolder(out).read_metrics()) == 1
    train(configuration(out, "layerwise-slot"), resume=True, quiet=True)
    assert_same(outcome(out), undisturbed("layerwise-slot"))


class Killed(Exception):
    """Stands for a kill: nothing is saved."""


def kill():
    raise Killed


@pytest.mark.parametrize(
    "updates", [pytest.param(1, marks=pytest.mark.full), 5, pytest.param(8, marks=pytest.mark.full)]
)
def test_a_killed_run_goes_on_from_its_last_checkpoint(updates, undisturbed, tmp_path, monkeypatch):
    out, method = tmp_path / "run", "layerwise-example"
    act_after(monkeypatch, updates, kill)
    with pytest.raises(Killed):
        train(configuration(out, method, checkpoint_every=2), quiet=True)
    train(configuration(out, method, checkpoint_every=2), resume=True, quiet=True)
    assert_same(outcome(out), undisturbed(method))


def test_a_kill_between_metrics_and_checkpoint_repeats_no_line(undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "run"
    save_last, saved = loop.save_last, []

    def killed(*arguments):
        if saved:
            kill()
        saved.append(save_last(*arguments))  # the first one is made before the first step

    monkeypatch.setattr(loop, "save_last", killed)
    with pytest.raises(Killed):
        train(configuration(out, "layerwise-slot"), quiet=True)
    assert RunFolder(out).metrics.read_text()
    monkeypatch.setattr(loop, "save_last", save_last)
    train(configuration(out, "layerwise-slot"), resume=True, quiet=True)
    assert_same(outcome(out), undisturbed("layerwise-slot"))


@pytest.mark.full
def test_a_finished_run_is_left_as_it_is(undisturbed, tmp_path):
    expected = undisturbed("layerwise-slot")
    out = tmp_path / "run"
    train(configuration(out, "layerwise-slot"), quiet=True)
    result = train(configuration(out, "layerwise-slot"), resume=True, quiet=True)
    assert len(result.metrics) == EPOCHS
    assert_same(outcome(out), expected)
