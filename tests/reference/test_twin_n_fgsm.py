"""N-FGSM, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import (
    assert_seeded,
    assert_twins,
    epochs,
    gradient,
    network,
)

from advreg.methods import NFGSM


def twin(epsilon, step, reach):
    generator = torch.Generator().manual_seed(0)

    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        noise = (torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1) * reach * epsilon
        noisy = (x + noise).clamp(0, 1)
        g = gradient(model, noisy, lambda outputs: F.cross_entropy(outputs, y))
        return F.cross_entropy(model((noisy + step * g.sign()).clamp(0, 1)), y)

    return loss


def test_equals_its_equation():
    assert_twins(NFGSM(epsilon=0.1), twin(0.1, 0.1, 2), epochs())
    assert_twins(NFGSM(epsilon=0.1, step_size=0.2, noise=1), twin(0.1, 0.2, 1), epochs())


def test_the_perturbation_is_not_clipped_to_epsilon():
    method, model = NFGSM(epsilon=0.1), network()
    (batch,) = list(epochs(1))[:1]
    with method.attach(model):
        inputs = method.attacked(model, batch, F.cross_entropy)
    change = (inputs - batch.inputs).abs()
    assert 0.25 < change.max() <= 0.3 + 1e-12
    assert inputs.min() >= 0
    assert inputs.max() <= 1


def test_defaults_are_the_papers():
    assert NFGSM().step_size == pytest.approx(8 / 255)


def test_seeded():
    assert_seeded(NFGSM)
