"""MART, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_seeded, assert_twins, epochs, gradient

from advreg.errors import ConfigurationError
from advreg.methods import MART


def twin(epsilon, step, steps, beta):
    generator = torch.Generator().manual_seed(0)

    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        attacked = x + torch.empty_like(x).normal_(0, 0.001, generator=generator)
        model.eval()
        for _ in range(steps):
            g = gradient(model, attacked, lambda outputs: F.cross_entropy(outputs, y))
            attacked = (attacked + step * g.sign()).clamp(x - epsilon, x + epsilon).clamp(0, 1)
        model.train()
        p, q = model(x).softmax(1), model(attacked).softmax(1)
        total = 0.0
        for i, label in enumerate(y.tolist()):
            others = torch.cat([q[i, :label], q[i, label + 1 :]])
            boosted = -q[i, label].log() - (1.0001 - others.max()).log()
            kl = (p[i] * (p[i] / q[i]).log()).sum()
            total = total + boosted + beta * kl * (1 - p[i, label])
        return total / len(x)

    return loss


def test_equals_its_equation():
    method = MART(epsilon=0.2, step_size=0.08, steps=3, beta=2)
    assert_twins(method, twin(0.2, 0.08, 3, 2), epochs())


def test_defaults_are_the_papers():
    method = MART()
    assert (method.steps, method.beta, method.passes) == (10, 5, 12)
    assert method.step_size == pytest.approx(0.007)


def test_seeded():
    assert_seeded(MART)


def test_refusals():
    with pytest.raises(ConfigurationError, match="beta"):
        MART(beta=-1)
