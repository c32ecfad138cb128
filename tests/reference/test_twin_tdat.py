"""TDAT, beside its equations."""

import math

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_seeded, assert_twins, epochs, network

from advreg.errors import ConfigurationError
from advreg.methods import TDAT


def twin(epsilon, step, m, weight, least, total=None):
    """`total` mini-batches are the whole training; None is its end from the start."""
    generator = torch.Generator().manual_seed(0)
    starts, count = [], 0

    def loss(model, batch):
        nonlocal count
        x, y = batch.inputs, batch.targets
        done = 1 if total is None else count / total
        gamma = max(least, 0.6 * math.tanh(1 - done))
        count += 1
        labels = torch.full((len(x), 3), (1 - gamma) / 2, dtype=x.dtype)
        labels[range(len(x)), y] = gamma
        d = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 * epsilon - epsilon
        for i in range(min(len(x), len(starts))):
            d[i] = starts[i]
        start = (x + d).clamp(0, 1).requires_grad_()
        before = model(start)
        (g,) = torch.autograd.grad(F.cross_entropy(before, labels), start, retain_graph=True)
        start = start.detach()
        delta = (start - x + step * g.sign()).clamp(-epsilon, epsilon)
        attacked = (x + delta).clamp(0, 1)
        starts[: len(x)] = list(m * d + (1 - m) * (attacked - x))
        after = model(attacked)
        p = before.softmax(1)[range(len(x)), y]
        change = ((after - before).pow(2).sum(1) * torch.tanh(1 - p)).mean()
        return F.cross_entropy(after, labels) + weight * change

    return loss


def test_equals_its_equations():
    method = TDAT(epsilon=0.2, step_size=0.15, weight=0.4, momentum=0.5)
    assert_twins(method, twin(0.2, 0.15, 0.5, 0.4, 0.5), epochs(3))


def test_labels_are_relaxed_more_and_more():
    known = {"steps_per_epoch": 4, "epochs": 3}
    method = TDAT(epsilon=0.2, true_share=0.35)
    assert_twins(method, twin(0.2, 0.2, 0.75, 0.6, 0.35, total=12), epochs(3), **known)


@pytest.mark.parametrize(("classes", "left"), [(10, 0.15), (100, 0.05), (2, 0.75)])
def test_what_is_left_of_the_true_class(classes, left):
    method = TDAT()
    with method.attach(network()):
        assert method.left(classes) == pytest.approx(left)
    with method.attach(network(), steps_per_epoch=4, epochs=2):
        early = method.left(classes)
    assert early == pytest.approx(max(left, 0.6 * math.tanh(1)))


def test_defaults_are_the_papers():
    method = TDAT()
    assert (method.momentum, method.weight, method.scale) == (0.75, 0.6, 0.6)
    assert method.step_size == pytest.approx(8 / 255)


def test_seeded():
    assert_seeded(TDAT)


def test_refusals():
    for setting in ({"true_share": 0}, {"momentum": 2}, {"scale": 2}, {"weight": -1}):
        with pytest.raises(ConfigurationError, match=next(iter(setting))):
            TDAT(**setting)
    method = TDAT(true_share=0.2)
    with method.attach(network()), pytest.raises(ConfigurationError, match=r"0.2 of 3 classes"):
        method.left(3)
