"""PGD training, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_seeded, assert_twins, epochs, gradient

from advreg.errors import ConfigurationError
from advreg.methods import PGD


def length(vectors):
    return vectors.flatten(1).norm(dim=1)[:, None, None, None]


def twin_linf(epsilon, step, steps):
    generator = torch.Generator().manual_seed(0)

    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 * epsilon - epsilon
        attacked = (x + noise).clamp(0, 1)
        for _ in range(steps):
            g = gradient(model, attacked, lambda outputs: F.cross_entropy(outputs, y))
            attacked = (x + (attacked + step * g.sign() - x).clamp(-epsilon, epsilon)).clamp(0, 1)
        return F.cross_entropy(model(attacked), y)

    return loss


def twin_l2(epsilon, step, steps):
    generator = torch.Generator().manual_seed(0)

    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        normal = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        radius = torch.rand(len(x), generator=generator, dtype=x.dtype) ** (1 / x[0].numel())
        noise = epsilon * radius[:, None, None, None] * normal / length(normal)
        attacked = (x + noise).clamp(0, 1)
        for _ in range(steps):
            g = gradient(model, attacked, lambda outputs: F.cross_entropy(outputs, y))
            delta = attacked + step * g / length(g) - x
            delta = delta * (epsilon / length(delta)).clamp(max=1)
            attacked = (x + delta).clamp(0, 1)
        return F.cross_entropy(model(attacked), y)

    return loss


def test_equals_its_equation():
    assert_twins(PGD(epsilon=0.2, steps=3, step_size=0.1), twin_linf(0.2, 0.1, 3), epochs())
    assert_twins(PGD(epsilon=0.2, steps=2), twin_linf(0.2, 0.25, 2), epochs(1))


def test_equals_its_equation_in_l2():
    method = PGD(epsilon=0.8, steps=3, step_size=0.4, norm="l2")
    assert_twins(method, twin_l2(0.8, 0.4, 3), epochs())


def test_defaults_are_the_papers():
    assert PGD().steps == 10
    assert PGD().step_size == pytest.approx(2 / 255)
    assert PGD().passes == 11


def test_seeded():
    assert_seeded(PGD)


def test_refusals():
    with pytest.raises(ConfigurationError, match="linf or l2"):
        PGD(norm="l1")
    with pytest.raises(ConfigurationError, match="steps"):
        PGD(steps=0)
