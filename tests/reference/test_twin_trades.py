"""TRADES, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import (
    assert_seeded,
    assert_twins,
    divergence,
    epochs,
    gradient,
    network,
    train,
)

from advreg.errors import ConfigurationError
from advreg.methods import TRADES, Standard


def twin(epsilon, step, steps, beta):
    generator = torch.Generator().manual_seed(0)

    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        noise = torch.empty_like(x).normal_(0, 0.001, generator=generator)
        attacked = x + noise
        model.eval()
        clean = model(x).detach()
        for _ in range(steps):
            g = gradient(model, attacked, lambda outputs: divergence(clean, outputs))
            attacked = (attacked + step * g.sign()).clamp(x - epsilon, x + epsilon).clamp(0, 1)
        model.train()
        outputs = model(x)
        return F.cross_entropy(outputs, y) + beta * divergence(outputs, model(attacked))

    return loss


def test_equals_its_equation():
    method = TRADES(epsilon=0.2, step_size=0.08, steps=3, beta=2)
    assert_twins(method, twin(0.2, 0.08, 3, 2), epochs())


def test_without_its_weight_it_is_plain_but_for_the_batch_statistics():
    runs = []
    for method in (TRADES(epsilon=0.2, steps=2, beta=0), Standard()):
        model = network()
        with method.attach(model):
            runs.append((train(model, method, epochs()), dict(model.named_parameters())))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-12, atol=0)
    for name, value in runs[1][1].items():
        torch.testing.assert_close(runs[0][1][name], value, rtol=1e-12, atol=1e-14)


def test_defaults_are_the_papers():
    method = TRADES()
    assert (method.steps, method.beta, method.passes) == (10, 6, 12)
    assert method.step_size == pytest.approx(0.007)


def test_seeded():
    assert_seeded(TRADES)


def test_refusals():
    with pytest.raises(ConfigurationError, match="beta"):
        TRADES(beta=-1)
