"""Guided adversarial training, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import (
    assert_seeded,
    assert_twins,
    epochs,
    gradient,
    keeping_statistics,
    network,
    signs,
    train,
)

from advreg.errors import ConfigurationError
from advreg.methods import GAT, Standard


def twin(epsilon, noise, step, weight, alternate=True, switch=None):
    """`switch` is the mini-batch after which the weight is four times as large."""
    generator, count = torch.Generator().manual_seed(0), 0

    def distance(one, other):
        return (one.softmax(1) - other.softmax(1)).pow(2).sum(1).mean()

    def loss(model, batch):
        nonlocal count
        x, y = batch.inputs, batch.targets
        w = weight * (4 if switch is None or count > switch else 1)
        guided = w if count % 2 or not alternate else 0.0
        with keeping_statistics(model):
            clean = model(x).detach()
        start = (x + noise * signs(x, generator)).clamp(0, 1)
        model.eval()
        g = gradient(
            model, start, lambda out: F.cross_entropy(out, y) + guided * distance(out, clean)
        )
        model.train()
        count += 1
        w = weight * (4 if switch is None or count > switch else 1)
        delta = (start - x + step * g.sign()).clamp(-epsilon, epsilon)
        attacked = model((x + delta).clamp(0, 1))
        outputs = model(x)
        return F.cross_entropy(outputs, y) + w * distance(outputs, attacked)

    return loss


def test_equals_its_equation():
    method = GAT(epsilon=0.2, noise=0.1, step_size=0.15, weight=3)
    assert_twins(method, twin(0.2, 0.1, 0.15, 3), epochs())


def test_the_weight_grows_late():
    known = {"steps_per_epoch": 4, "epochs": 2}
    method = GAT(epsilon=0.2, weight=3, late=0.5, alternate=False)
    assert_twins(method, twin(0.2, 0.1, 0.2, 3, False, switch=4), epochs(), **known)


def test_without_its_weight_it_is_plain_but_for_the_batch_statistics():
    runs = []
    for method in (GAT(epsilon=0.2, weight=0), Standard()):
        model = network()
        with method.attach(model):
            runs.append(train(model, method, epochs()))
    torch.testing.assert_close(*runs, rtol=1e-12, atol=0)


def test_defaults_are_the_papers():
    method = GAT()
    assert (method.weight, method.passes) == (10, 3)
    assert (method.noise, method.step_size) == pytest.approx((4 / 255, 8 / 255))


def test_seeded():
    assert_seeded(GAT)


@pytest.mark.parametrize("setting", [{"weight": -1}, {"late": 2}, {"alternate": 1}])
def test_refusals(setting):
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        GAT(**setting)
