"""Inputs in half precision are moved within the budget, by the adversary and by every method."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advreg import Batch, LayerwiseAdversary
from advreg.attacks import L2
from advreg.layerwise.kernels import round_towards
from advreg.methods import METHODS, build_method
from advreg.tensors import round_towards as rounded

HALVES = [torch.bfloat16, torch.float16]
EPSILON = 1 / 255
"""As large as the spacing of bfloat16 below one, where rounding to the nearest adds a half."""

SETTINGS = {
    "slot": {},
    "example": {"memory": "example"},
    "max": {"direction": "max"},
    "random": {"direction": "random"},
    "accumulating": {"step_size": "1/510"},
    "random start": {"start": "random"},
}
HELD = [name for name in METHODS if getattr(build_method(name), "threat", None) is not None]
REACH = {"n_fgsm": 3.0}
"""Budgets that the noise and the step of a method may reach together."""


def network(kind):
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4)
    return nn.Sequential(*layers).to(kind)


def examples(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(8, 3, 4, 4, generator=generator).to(kind), torch.arange(8) % 4


def reaches(net, train, kind, norm=float("inf")):
    """The largest change of an example in each forward pass, in budgets, step by step."""
    given, found = [], []
    net[0].register_forward_pre_hook(lambda module, args: given.append(args[0].detach().clone()))
    for step in range(3):
        x, y = examples(kind, step)
        given.clear()
        train(x, y)
        changes = [(seen.double() - x.double()).flatten(1) for seen in given]
        found.append([change.norm(p=norm, dim=1).max() / EPSILON for change in changes])
    return found


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("limits", [None, (0.0, 1.0)])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_adversary_stays_within_the_budget(name, limits, kind):
    net = network(kind)
    adversary = LayerwiseAdversary(
        epsilon=EPSILON, sites=["input"], input_range=limits, **SETTINGS[name]
    )

    def train(x, y):
        if name == "example":
            adversary.set_batch(torch.arange(8))
        F.cross_entropy(net(x), y).backward()

    with adversary.attach(net):
        found = reaches(net, train, kind)
    assert all(reach <= 1 + 1e-6 for step in found for reach in step)
    assert all(reach > 0.4 for step in found[1:] for reach in step)


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("name", sorted(HELD))
def test_a_method_stays_within_the_budget(name, kind):
    net, method = network(kind), build_method(name, epsilon=EPSILON)

    def train(x, y):
        batch = Batch(x, y, torch.arange(8))
        method.step(net, batch, F.cross_entropy, torch.Tensor.backward)

    with method.attach(net):
        found = reaches(net, train, kind, 2 if isinstance(method.threat, L2) else float("inf"))
    # The passes before are the attack's: noise of its own scale, a finite difference.
    trained = [step[-1:] if name == "vat" else step[-2:] for step in found]
    assert all(max(step) <= REACH.get(name, 1.0) + 1e-6 for step in trained)


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("wants_gradient", [False, True])
def test_an_input_is_the_nearest_number_that_is_not_beyond_the_exact_sum(kind, wants_gradient):
    """Against a slow twin in double, a step of the format at a time; limits and all."""
    net, eps, limits = network(kind), 0.013, (0.1, 0.9)
    adversary = LayerwiseAdversary(epsilon=eps, sites=["input"], input_range=limits)
    given = []
    net[0].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    first, second = (examples(kind, seed)[0].clamp(*limits) for seed in (1, 2))
    with adversary.attach(net):
        loss = net(first.requires_grad_(wants_gradient)).float().square().sum()
        given[-1].retain_grad()
        loss.backward()
        signs = given[-1].grad.sign()
        net(second.requires_grad_(wants_gradient))
    exact = (second.detach().double() + eps * signs.double()).clamp(*limits)
    for x, sought, got in zip(second.flatten(), exact.flatten(), given[-1].flatten(), strict=True):
        best = sought.to(kind)
        if (best.double() - x.double()).abs() > (sought - x.double()).abs():
            best = torch.nextafter(best, x)
        assert got == best


class Showing(nn.Module):
    """Returns what it was given with its answer: a hook would run eagerly."""

    def __init__(self, kind):
        super().__init__()
        self.inner = network(kind)

    def forward(self, x):
        return self.inner(x), x


@pytest.mark.full
@pytest.mark.parametrize("kind", HALVES)
def test_compiled_code_rounds_as_eager_code_does(kind, form, fresh_compiler):
    """Inductor leaves out a rounding that is a cast between two fused steps."""
    found = []
    for compile_as in (lambda model: model, torch.compile):
        net, given = Showing(kind), []
        adversary = LayerwiseAdversary(epsilon=EPSILON, sites=["input"], input_range=(0.0, 1.0))
        with adversary.attach(net):
            called = compile_as(net)
            for step in range(3):
                logits, seen = called(examples(kind, step)[0])
                logits.float().square().sum().backward()
                given.append(seen.detach())
        found.append(torch.stack(given))
    clean = torch.stack([examples(kind, step)[0] for step in range(3)])
    assert (found[0][1:] != clean[1:]).float().mean() > 0.9
    assert found[0].equal(found[1])


@pytest.mark.parametrize("kind", HALVES)
def test_the_gradient_passes_through_rounding(kind):
    x, _ = examples(kind)
    values = (x.float() + EPSILON).requires_grad_()
    moved = round_towards(x, values)
    assert moved.equal(rounded(x, values.detach()))
    moved.backward(torch.full_like(moved, 3.0))
    assert values.grad.equal(torch.full_like(values, 3.0))
