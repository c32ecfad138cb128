"""FGSM with GradAlign, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_seeded, assert_twins, epochs, gradient, keeping_statistics

from advreg.errors import ConfigurationError
from advreg.methods import GradAlign
from advreg.methods.gradalign import _misalignment


def twin(epsilon, step, weight):
    generator = torch.Generator().manual_seed(0)

    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        g = gradient(model, x, lambda outputs: F.cross_entropy(outputs, y))
        attacked = (x + (step * g.sign()).clamp(-epsilon, epsilon)).clamp(0, 1)
        total = F.cross_entropy(model(attacked), y)
        eta = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 * epsilon - epsilon
        noisy = (x + eta).clamp(0, 1).requires_grad_()
        with keeping_statistics(model):
            J = F.cross_entropy(model(noisy), y)
            (beside,) = torch.autograd.grad(J, noisy, create_graph=True)
        cosine = F.cosine_similarity(g.flatten(1), beside.flatten(1), eps=0)
        return total + weight * (1 - cosine.mean())

    return loss


def test_equals_its_equation():
    method = GradAlign(epsilon=0.2, step_size=0.15, weight=2)
    assert_twins(method, twin(0.2, 0.15, 2), epochs())


def test_examples_without_a_gradient_are_left_out():
    one = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    other = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1e-30, 1e-30]], requires_grad=True)
    found = _misalignment(one, other)
    assert found.item() == pytest.approx((1 + 1 - 0.5**0.5) / 2)
    (slope,) = torch.autograd.grad(found, other)
    assert slope.isfinite().all()
    assert _misalignment(one * 0, other).item() == 0


def test_defaults_are_the_papers():
    method = GradAlign()
    assert (method.weight, method.passes) == (0.2, 4)
    assert method.step_size == pytest.approx(8 / 255)


def test_seeded():
    assert_seeded(GradAlign)


def test_refusals():
    with pytest.raises(ConfigurationError, match="weight"):
        GradAlign(weight=-1)
