"""Attacks that cannot work say so and name the mend."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from advreg.attacks import L2, Linf, fgsm, pgd
from advreg.errors import ConfigurationError
from advreg.modes import frozen_statistics


def test_what_cannot_work_is_refused_with_the_mend():
    for settings, message in (
        ({"threat": Linf(8)}, "8/255 instead of 8"),
        ({"threat": L2(5)}, "5/255 instead of 5"),
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 1.5}, "restarts is 1.5"),
        ({"step_size": -1}, "step_size"),
        ({"momentum": -1}, "momentum"),
        ({"restarts": 2, "random_start": False}, "random_start"),
        ({"restarts": 2, "criterion": functional.cross_entropy}, "without reduction"),
        ({"inputs": torch.zeros(6, 1, 4, 4, dtype=torch.uint8)}, "floating point"),
        ({"inputs": torch.rand(6, 1, 4, 4) * 255}, "outside the range from 0 to 1"),
    ):
        inputs, targets = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
        arguments = {"inputs": inputs, "targets": targets, "threat": Linf(0.1), **settings}
        with pytest.raises(ConfigurationError, match=message):
            pgd(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), **arguments)


def test_inputs_beside_their_range_by_rounding_are_attacked():
    inputs = torch.rand(6, 1, 4, 4)
    inputs[0, 0, 0, 0] = 1 + 1e-6
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    assert pgd(model, inputs, torch.arange(6) % 3, Linf(0.1), 1).max() <= 1


def test_inputs_of_another_range_are_attacked_in_it():
    inputs, model = torch.randn(6, 4), nn.Linear(4, 3)
    attacked = pgd(model, inputs, torch.arange(6) % 3, Linf(0.5), 3, input_range=None)
    assert attacked.min() < inputs.min()
    pgd(model, inputs.clamp(-2, 2), torch.arange(6) % 3, Linf(0.5), 3, input_range=(-2, 2))


def test_a_model_whose_batch_statistics_would_change_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    inputs, targets = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    before = model[1].running_mean.clone()
    with pytest.raises(ConfigurationError, match=r"model.eval\(\) first"):
        pgd(model, inputs, targets, Linf(0.1))
    assert model[1].running_mean.equal(before)
    with frozen_statistics(model):
        pgd(model, inputs, targets, Linf(0.1), 2)
    assert model[1].running_mean.equal(before)
    pgd(model.eval(), inputs, targets, Linf(0.1), 2)


def test_a_model_that_returns_probabilities_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1))
    inputs, targets = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    for attack in (fgsm, pgd):
        with pytest.raises(ConfigurationError, match="without its softmax"):
            attack(model, inputs, targets, Linf(0.1))
        with pytest.raises(ConfigurationError, match="without its softmax"):
            attack(model, inputs, targets, Linf(0.1), criterion=nn.CrossEntropyLoss())

    def nll(probabilities, targets):
        return functional.nll_loss(probabilities.log(), targets, reduction="none")

    pgd(model, inputs, targets, Linf(0.1), 2, criterion=nll)  # a loss that is meant for them
