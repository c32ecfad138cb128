"""epsilon="auto": a budget that follows the training loss."""

import warnings

import pytest
import torch
from torch import nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError, EmptyPerturbationWarning
from advreg.methods import Layerwise, build_method
from advreg.methods.loss_floor import RATE, LossFloor

INPUTS, TARGETS = torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).train()


def losses_of(values):
    """A criterion with these values, and cross-entropy's gradient."""
    values = iter(values)

    def criterion(outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss - loss.detach() + next(values)

    return criterion


def walk(method, values, validation=None):
    """The weights after a step for each loss, and the budget that each step had.

    The losses on validation data are told before the steps of their numbers.
    """
    model, criterion, budgets = network(), losses_of(values), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with method.attach(model):
        for number in range(len(values)):
            if number in (validation or {}):
                method.validated(validation[number])
            method.step(model, Batch(INPUTS, TARGETS), criterion, torch.Tensor.backward)
            optimizer.step()
            optimizer.zero_grad()
            budgets.append(method.adversary.statistics()["0"]["epsilon"])
    return list(model.parameters()), budgets


def test_the_budget_follows_the_loss_as_the_study_had_it(script):
    values = [0.0] * 60 + [0.25, 0.5, 1.0, 9.0, 3.0, 0.1, 0.1] * 3
    mine, budgets = walk(Layerwise(epsilon="auto", sites=["0"], loss_floor=0.5), values)
    theirs, _ = walk(script("auto_epsilon").AutoEpsilon(sites=["0"], epsilon=0.1), values)
    assert all(map(torch.equal, mine, theirs))
    assert budgets[:3] == pytest.approx([0, 0.1 * RATE, 0.2 * RATE])
    assert max(budgets) == pytest.approx(0.1)
    assert min(budgets[60:]) < 0.1


def test_without_a_floor_it_is_half_of_the_validation_loss_and_at_most_a_half():
    told = {3: 0.2, 6: 5.0, 9: float("nan")}
    _, budgets = walk(Layerwise(epsilon="auto", sites=["0"]), [0.05] * 12, told)
    grown = [0, 0, 0, *[0.5] * 3, *[0.9] * 5]  # by the floors: none, 0.1 and 0.5
    shares = [sum(grown[:number]) * RATE for number in range(12)]
    assert budgets == pytest.approx([0.1 * share for share in shares])


def test_a_loss_that_is_not_finite_is_left_out():
    floor = LossFloor(0.5)
    for value in (0.0, float("inf"), float("nan"), 0.25):
        floor.follow(torch.tensor(value))
    assert floor.share == pytest.approx(1.5 * RATE)


def test_on_an_accelerator_twenty_losses_are_looked_at_together():
    """By a tensor that says it is elsewhere, for want of one that is."""

    class Elsewhere(torch.Tensor):
        @property
        def device(self):
            return torch.device("cuda")

    near, far = LossFloor(0.5), LossFloor(0.5)
    for step in range(45):
        loss = torch.tensor(0.01 * step)
        near.follow(loss)
        far.follow(loss.as_subclass(Elsewhere))
        if step == 30:  # a state goes on between two looks
            far, old = LossFloor(0.5), far
            far.load_state_dict(old.state_dict())
        if step in (19, 39):
            assert far.share == pytest.approx(near.share)
    assert far.share != pytest.approx(near.share)


def test_the_hidden_default_sites_are_perturbed_and_the_input_is_refused():
    method = Layerwise(epsilon="auto")
    with method.attach(network()):
        assert [site.name for site in method.adversary.sites] == ["1"]
    with pytest.raises(ConfigurationError, match='leave "input" out'):
        Layerwise(epsilon="auto", sites=["input", "0"]).attach(model := network())
    Layerwise(epsilon="auto").attach(model).detach()  # nothing is left of the refused one


@pytest.mark.parametrize(
    ("settings", "mend"),
    [
        ({"epsilon": "auto", "memory": "example"}, "leave memory and relative out"),
        ({"epsilon": "auto", "relative": False}, "leave memory and relative out"),
        ({"epsilon": "auto", "loss_floor": 0}, "give a loss above"),
        ({"epsilon": "auto", "loss_floor": -1}, "at least 0"),
        ({"epsilon": 0.1, "loss_floor": 0.5}, 'for epsilon="auto"'),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, mend):
    with pytest.raises(ConfigurationError, match=mend):
        Layerwise(**settings)


@pytest.mark.parametrize("partner", ["mixup", "awp"])
def test_it_does_not_compose(partner):
    with pytest.raises(ConfigurationError, match="give it a number"):
        build_method(f"layerwise+{partner}", layerwise={"epsilon": "auto"})


def test_the_parts_of_a_composition_are_told_the_validation_loss(monkeypatch):
    composed, told = build_method("layerwise+mixup"), []
    for part in composed.methods:
        monkeypatch.setattr(part, "validated", told.append)
    composed.validated(0.5)
    assert told == [0.5, 0.5]


def test_a_budget_that_stayed_zero_is_said():
    with pytest.warns(EmptyPerturbationWarning, match="has not fallen below 0.5"):
        walk(Layerwise(epsilon="auto", sites=["0"]), [2.0, 1.0, 0.5], {0: 1.0})
    with pytest.warns(EmptyPerturbationWarning, match="no validation loss was told"):
        walk(Layerwise(epsilon="auto", sites=["0"]), [0.1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walk(Layerwise(epsilon="auto", sites=["0"]), [2.0, 1.0, 0.4], {0: 1.0})
        walk(Layerwise(epsilon="auto", sites=["0"]), [])
