"""FGSM-MEP and FGSM-EP with their regulariser, beside their equations."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import (
    EXAMPLES,
    assert_seeded,
    assert_twins,
    cut,
    epochs,
    network,
    put,
    signs,
    train,
)

from advreg import Batch
from advreg.errors import ConfigurationError, StateError
from advreg.methods import FGSMPGI


def twin(epsilon, step, mu, weight, true, reset=40):
    generator = torch.Generator().manual_seed(0)
    priors, momenta, visits = {}, {}, {}

    def loss(model, batch):
        x, y, view, indices = batch.inputs, batch.targets, batch.view, batch.indices.tolist()
        d, m = epsilon * signs(x, generator), torch.zeros_like(x)
        for i, index in enumerate(indices):
            visits[index] = visits.get(index, 0) + 1
            if (visits[index] - 1) % reset == 0:
                priors[index] = torch.zeros(3, 8, 8, dtype=torch.float16)
                momenta[index] = torch.zeros(3, 8, 8, dtype=torch.bfloat16)
            else:
                d[i] = cut(priors[index], view, i).double()
                m[i] = cut(momenta[index], view, i).double()
        labels = torch.full((len(x), 3), (1 - true) / 2, dtype=x.dtype)
        labels[range(len(x)), y] = true
        start = (x + d).clamp(0, 1).requires_grad_()
        before = model(start)
        J = F.cross_entropy(before, labels)
        (g,) = torch.autograd.grad(J, start, retain_graph=True)
        start = start.detach()

        def stepped(direction):
            delta = (start - x + step * direction.sign()).clamp(-epsilon, epsilon)
            return (x + delta).clamp(0, 1)

        m = g / g.abs().mean() + mu * m
        for i, index in enumerate(indices):
            put(priors[index], view, i, (stepped(m) - x)[i].half())
            put(momenta[index], view, i, m[i].bfloat16())
        after = model(stepped(g))
        return F.cross_entropy(after, labels) + weight * (after - before).pow(2).mean()

    return loss


def test_equals_its_equations():
    method = FGSMPGI(epsilon=0.2, step_size=0.15, weight=2)
    assert_twins(method, twin(0.2, 0.15, 0.3, 2, 0.6), epochs(3, views=True))


def test_without_momentum_it_is_fgsm_ep():
    method = FGSMPGI(epsilon=0.2, momentum=0, true_share=0.8)
    assert method.carries().keys() == {"generators", "priors"}
    assert_twins(method, twin(0.2, 0.2, 0, 10, 0.8), epochs(3, views=True))


def test_begins_again_after_so_many_epochs():
    method = FGSMPGI(epsilon=0.2, step_size=0.1, reset=2)
    assert_twins(method, twin(0.2, 0.1, 0.3, 10, 0.6, 2), epochs(5, views=True))


def test_the_momentum_changes_the_next_start():
    ends = []
    for mu in (0.0, 0.9):
        model, method = network(), FGSMPGI(epsilon=0.2, step_size=0.05, momentum=mu)
        with method.attach(model, examples=EXAMPLES):
            train(model, method, epochs(3))
        ends.append(method.state_dict()["priors"]["rows"])
    assert not ends[0].equal(ends[1])


def test_defaults_are_the_papers():
    method = FGSMPGI()
    assert (method.momentum, method.weight, method.true_share, method.reset) == (0.3, 10, 0.6, 40)
    assert method.step_size == pytest.approx(8 / 255)


def test_seeded():
    assert_seeded(FGSMPGI)


def test_refusals():
    for setting in ({"true_share": 0.4}, {"reset": 0}, {"momentum": -1}, {"weight": -1}):
        with pytest.raises(ConfigurationError, match=next(iter(setting))):
            FGSMPGI(**setting)
    model, method = network(), FGSMPGI()
    batch = next(epochs(1))
    with method.attach(model), pytest.raises(StateError, match="indices"):
        train(model, method, [Batch(batch.inputs, batch.targets)])
