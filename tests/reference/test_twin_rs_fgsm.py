"""FGSM from a random start, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_seeded, assert_twins, epochs, gradient, passes

from advreg.errors import ConfigurationError
from advreg.methods import RSFGSM


def twin(epsilon, step):
    generator = torch.Generator().manual_seed(0)

    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 * epsilon - epsilon
        delta = (x + noise).clamp(0, 1) - x
        g = gradient(model, x + delta, lambda outputs: F.cross_entropy(outputs, y))
        delta = (delta + step * g.sign()).clamp(-epsilon, epsilon)
        return F.cross_entropy(model((x + delta).clamp(0, 1)), y)

    return loss


def test_equals_its_equation():
    assert_twins(RSFGSM(epsilon=0.2), twin(0.2, 0.25), epochs())
    assert_twins(RSFGSM(epsilon=0.2, step_size=0.1), twin(0.2, 0.1), epochs())


def test_defaults_are_the_papers():
    method = RSFGSM()
    assert method.epsilon == 8 / 255
    assert method.step_size == pytest.approx(10 / 255)
    assert RSFGSM(epsilon="16/255").step_size == pytest.approx(20 / 255)


def test_seeded():
    assert_seeded(RSFGSM)


def test_an_epsilon_in_the_wrong_unit_is_refused():
    with pytest.raises(ConfigurationError, match="8/255 instead of 8"):
        passes(RSFGSM(epsilon=8), epochs(1))
    with pytest.raises(ConfigurationError, match="epsilon"):
        RSFGSM(epsilon=-0.1)
