"""Trainings that go wrong, and methods that are out of the ordinary."""

import pytest
from test_training_loop import configuration, weights
from torch import nn

from advreg import errors
from advreg.methods import METHODS, Method, training_pass
from advreg.training import MethodSettings, RunFolder, loop, train


class Odd(Method):
    """A method whose loss is what a test wants."""

    name = "odd"
    replays = 1
    epsilon = 0.5
    worth = staticmethod(lambda loss: loss)

    def step(self, model, batch, criterion, backward):
        def worth(outputs, targets):
            return type(self).worth(criterion(outputs, targets))

        return training_pass(model, batch, worth, backward)


@pytest.fixture
def odd(monkeypatch):
    kind = type("Odd", (Odd,), {})
    monkeypatch.setitem(METHODS, "odd", kind)
    return kind


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_it(odd, tmp_path):
    calls = []

    def worth(loss):
        calls.append(0)
        return loss * float("nan") if len(calls) == 6 else loss

    odd.worth = staticmethod(worth)
    given = configuration(tmp_path / "a", epochs=4, method=MethodSettings("odd"))
    with pytest.raises(errors.RunError, match=r"nan in epoch 3.*learning rate"):
        train(given, quiet=True)
    kept = weights(tmp_path / "a")
    assert all(bool(value.isfinite().all()) for value in kept.values())
    assert len(RunFolder(tmp_path / "a").read_metrics()) == 2


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    plain = loop.update

    def poison(current, group):
        plain(current, group)
        if current.tally.updates == 2:  # the loss of the epoch's steps was finite
            nn.init.constant_(current.model.linear.weight, float("inf"))

    monkeypatch.setattr(loop, "update", poison)
    with pytest.raises(errors.RunError, match="weights"):
        train(configuration(tmp_path / "a"), quiet=True)
    assert not RunFolder(tmp_path / "a").best.exists()
    kept = RunFolder(tmp_path / "a").load(RunFolder(tmp_path / "a").last)
    assert kept["tally"]["updates"] == 0  # from before the first step


def test_a_collapse_is_warned_of_and_written_down(odd, tmp_path):
    odd.worth = staticmethod(lambda loss: loss * 0 + 2.31)
    given = configuration(tmp_path / "a", epochs=27, method=MethodSettings("odd"))
    with pytest.warns(errors.CollapseWarning, match="epsilon"):
        result = train(given, quiet=True)
    said = [line["epoch"] for line in result.metrics if "warnings" in line]
    assert said == [26]  # one epoch of grace, then fifty steps of two an epoch
    assert "epsilon" in result.metrics[25]["warnings"][0]


@pytest.mark.full
def test_a_method_without_a_budget_is_never_called_collapsed(odd, tmp_path):
    odd.worth = staticmethod(lambda loss: loss * 0 + 2.31)
    odd.epsilon = property()  # as if there were none
    given = configuration(tmp_path / "a", epochs=27, method=MethodSettings("odd"))
    assert not any("warnings" in line for line in train(given, quiet=True).metrics)


def test_replays_step_several_times_on_each_mini_batch(odd, tmp_path):
    odd.replays = 3
    result = train(configuration(tmp_path / "a", method=MethodSettings("odd")), quiet=True)
    assert result.metrics[-1]["updates"] == 2 * 2 * 3
    given = configuration(tmp_path / "b", method=MethodSettings("odd"), accumulate=2)
    with pytest.raises(errors.ConfigurationError, match="accumulate"):
        train(given, quiet=True)
