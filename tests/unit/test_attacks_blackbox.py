"""Noise and transfer."""

import pytest
import torch
from torch import nn

from advreg.attacks import L2, Linf, noise, pgd, transfer
from advreg.errors import ConfigurationError


@pytest.mark.parametrize("threat", [Linf("8/255"), L2(0.5)], ids=repr)
def test_noise_fills_the_ball_within_the_range(threat):
    inputs = torch.rand(50, 1, 4, 4)
    noisy = noise(inputs, threat, generator=torch.Generator().manual_seed(1))
    order = float("inf") if isinstance(threat, Linf) else 2
    reach = (noisy - inputs).flatten(1).norm(p=order, dim=1)
    assert (reach <= threat.epsilon + 1e-6).all()
    assert reach.max() > 0.9 * threat.epsilon
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert noisy.equal(noise(inputs, threat, generator=torch.Generator().manual_seed(1)))
    assert not noisy.equal(noise(inputs, threat, generator=torch.Generator().manual_seed(2)))


def test_noise_without_a_range_is_not_clamped():
    assert noise(torch.ones(50, 4), Linf(0.5), input_range=None).max() > 1.2


def test_noise_refuses_what_does_not_fit():
    with pytest.raises(ConfigurationError, match="8/255 instead of 8"):
        noise(torch.rand(2, 4), Linf(8))
    with pytest.raises(ConfigurationError, match="run from"):
        noise(torch.randn(20, 4), Linf(0.1))


def test_a_transferred_attack_is_the_other_models():
    torch.manual_seed(0)
    source, inputs = nn.Linear(4, 3), torch.rand(6, 4)
    targets = torch.arange(6) % 3
    settings = {"steps": 3, "random_start": False}
    found = transfer(source, inputs, targets, Linf(0.1), **settings)
    assert found.equal(pgd(source, inputs, targets, Linf(0.1), **settings))
    assert not found.equal(inputs)
