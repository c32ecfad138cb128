"""Mixup equals its equation; its random numbers are its own."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_seeded, assert_twins, epochs, network

from advreg import Batch
from advreg.errors import ConfigurationError
from advreg.methods import Mixup


def test_equals_its_equation():
    draws = Mixup(0.4, seed=3)

    def step(model, batch):
        share, order = draws.draw(len(batch))
        mixed = torch.stack(
            [
                share * batch.inputs[i] + (1 - share) * batch.inputs[order[i]]
                for i in range(len(order))
            ]
        )
        losses = -model(mixed).log_softmax(1)
        rows = torch.arange(len(batch))
        first, second = losses[rows, batch.targets], losses[rows, batch.targets[order]]
        return (share * first + (1 - share) * second).mean()

    assert_twins(Mixup(0.4, seed=3), step, epochs())


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
def test_shares_are_beta_distributed(concentration):
    method = Mixup(concentration)
    shares = torch.tensor([method.draw(1)[0] for _ in range(4000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.1)


def test_permutes_within_the_batch():
    _, order = Mixup().draw(7)
    assert order.sort().values.equal(torch.arange(7))


def test_seeded():
    assert_seeded(Mixup)


def test_targets_may_be_probabilities():
    batch = next(epochs())
    soft = F.one_hot(batch.targets, 3).double()
    losses = []
    for targets in (batch.targets, soft):
        model, method = network(), Mixup()
        with method.attach(model):
            losses.append(
                method.step(
                    model, Batch(batch.inputs, targets), F.cross_entropy, torch.Tensor.backward
                ).loss
            )
    torch.testing.assert_close(*losses)


def test_bad_settings_are_named():
    with pytest.raises(ConfigurationError, match="concentration is 0"):
        Mixup(concentration=0)
