"""Input gradient regularisation equals its equation and what finite differences say of it."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, network
from torch import nn

from advreg import Batch
from advreg.methods import InputGradient


def twin(weight, uniform):
    def step(model, batch):
        inputs = batch.inputs.clone().requires_grad_()
        logs = model(inputs).log_softmax(1)
        losses = -logs[torch.arange(len(batch)), batch.targets]
        penalised = -logs.mean(1) if uniform else losses
        (gradient,) = torch.autograd.grad(penalised.sum(), inputs, create_graph=True)
        penalty = sum(one.norm() ** 2 for one in gradient) / len(batch)
        return losses.mean() + weight * penalty

    return step


@pytest.mark.parametrize("uniform", [False, True])
def test_equals_its_equation(uniform):
    assert_twins(InputGradient(0.7, uniform), twin(0.7, uniform), epochs())


def smooth():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def case():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (4,), generator=generator)


def central(function, tensor, step=1e-5):
    """The gradient of a scalar function by central differences, entry by entry."""
    gradient = torch.zeros_like(tensor)
    with torch.no_grad():
        for place in range(tensor.numel()):
            entry = tensor.view(-1)[place]
            value = entry.item()
            ends = []
            for end in (value + step, value - step):
                entry.fill_(end)
                ends.append(function().item())
            entry.fill_(value)
            gradient.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.mark.full
@pytest.mark.parametrize("uniform", [False, True])
def test_penalty_and_its_gradient_are_those_of_finite_differences(uniform):
    inputs, targets = case()
    model, method = smooth(), InputGradient(0.7, uniform)

    def penalised():
        with torch.enable_grad(), method.attach(model):
            return method.step(
                model, Batch(inputs, targets), F.cross_entropy, torch.Tensor.backward
            ).loss

    def losses():
        logs = model(inputs).log_softmax(1)
        return (-logs.mean(1) if uniform else F.nll_loss(logs, targets, reduction="none")).sum()

    squares = central(losses, inputs).square().flatten(1).sum(1)
    expected = F.cross_entropy(model(inputs), targets) + 0.7 * squares.mean()
    torch.testing.assert_close(penalised(), expected.detach(), rtol=1e-8, atol=0)
    analytic = [parameter.grad.clone() for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), analytic, strict=True):
        numeric = central(penalised, parameter.data)
        torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)


def test_leaves_the_inputs_as_they_were():
    batch, method, model = next(epochs()), InputGradient(), network()
    with method.attach(model):
        method.step(model, batch, F.cross_entropy, torch.Tensor.backward)
    assert not batch.inputs.requires_grad
    assert batch.inputs.grad is None
