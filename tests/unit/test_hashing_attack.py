"""Attacks on codes, and mAP under them."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advreg.attacks import L2, Linf
from advreg.batch import Batch
from advreg.errors import ConfigurationError, DataError, MaskedAttackWarning
from advreg.hashing.attack import attack_codes, reference, relaxed_hamming
from advreg.hashing.codes import HashNetwork, bits_of, outputs_of
from advreg.hashing.hag import HAG
from advreg.hashing.packing import CodeFormat
from advreg.hashing.relevance import Relevance
from advreg.hashing.robustness import map_under_attack, masked
from advreg.methods import build_method
from advreg.models import build_model


@pytest.fixture
def network():
    return HashNetwork(build_model("convnet", 10, 1, 8), 16)


@pytest.fixture
def inputs():
    return torch.rand(6, 1, 8, 8)


def bits_in_evaluation(network, inputs):
    return torch.from_numpy(network.format.unpack(network.encode(inputs)))


def test_the_relaxed_distance_becomes_the_hamming_distance():
    outputs = torch.randn(5, 16)
    other = torch.rand(5, 16) < 0.5
    sharp = reference(outputs, other) * 1e6
    wanted = (bits_of(outputs) != other).sum(1).float()
    torch.testing.assert_close(relaxed_hamming(outputs, sharp), wanted)
    # However large the outputs, there is a slope to follow.
    for size in (1e-6, 1.0, 1e6):
        u = (outputs * size).requires_grad_()
        relaxed_hamming(u, reference(u.detach())).sum().backward()
        assert (u.grad * size).abs().min() > 1e-3


@pytest.mark.parametrize("threat", [Linf("8/255"), L2(0.5)], ids=["Linf", "L2"])
def test_away_changes_more_bits_than_noise_and_stays_in_the_ball(network, inputs, threat):
    generator = torch.Generator().manual_seed(0)
    found = attack_codes(network, inputs, threat, 10, generator=generator)
    own = bits_in_evaluation(network, inputs)
    reached = bits_in_evaluation(network, found.inputs)
    assert torch.equal(found.distances, (own != reached).sum(1))
    noisy = (inputs + threat.start(inputs, generator)).clamp(0, 1)
    assert (bits_in_evaluation(network, noisy) != own).sum() < found.distances.sum()
    assert found.inputs.min() >= 0
    assert found.inputs.max() <= 1
    delta = found.inputs - inputs
    torch.testing.assert_close(threat.project(delta), delta)
    assert not found.no_gradient.any()
    assert network.training  # as it was


def test_toward_comes_nearer_to_the_other_code(network, inputs):
    goal = bits_in_evaluation(network, inputs.flip(0))
    before = (bits_in_evaluation(network, inputs) != goal).sum(1)
    found = attack_codes(network, inputs, Linf(0.1), 20, toward=goal)
    assert (found.distances <= before).all()
    assert found.distances.sum() < before.sum()


def test_of_restarts_each_image_keeps_its_worst(network, inputs):
    settings = {"threat": Linf("4/255"), "steps": 2}
    runs = [
        attack_codes(network, inputs, **settings, generator=generator).distances
        for generator in [torch.Generator().manual_seed(3)]
        for _ in range(4)
    ]
    generator = torch.Generator().manual_seed(3)
    best = attack_codes(network, inputs, **settings, restarts=4, generator=generator)
    assert torch.equal(best.distances, torch.stack(runs).amax(0))
    own = bits_in_evaluation(network, inputs)
    assert torch.equal((bits_in_evaluation(network, best.inputs) != own).sum(1), best.distances)


def test_what_cannot_work_is_refused(network, inputs):
    with pytest.raises(ConfigurationError, match="restarts is 0"):
        attack_codes(network, inputs, Linf(0.1), restarts=0)
    with pytest.raises(DataError, match="codes to reach"):
        attack_codes(network, inputs, Linf(0.1), toward=torch.zeros(6, 8, dtype=torch.bool))


class Rounded(nn.Module):
    """A network that rounds its input first, which leaves an attack no gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network((inputs * 4).round() / 4)


def measured(network, **settings):
    # Three patterns and little noise: each class's codes are alike.
    patterns = torch.randint(256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    images = (patterns.repeat(10, 1, 1, 1) + torch.randint(3, (30, 1, 8, 8))).clamp(0, 255).byte()
    targets = np.arange(30) % 3
    database = CodeFormat(16).pack(bits_of(outputs_of(network, images)))
    return map_under_attack(
        network, images[:9], database, Relevance(targets[:9], targets), 16, **settings
    )


def test_map_falls_with_the_budget_and_below_noise(network):
    found = measured(network, epsilons=["1/255", "16/255"], steps=[5, 10], restarts=2)
    small, _, large, more = found["attacks"]
    assert (small["epsilon"], small["steps"]) == ("1/255", 5)
    assert large["map"] <= small["map"] <= found["clean"]
    assert more["map"] < more["noise_map"] <= found["clean"]
    assert more["bits_changed"] > more["noise_bits_changed"] + 1
    assert more["masked"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured(network, epsilons=["1/255", "16/255"], steps=[5, 10], restarts=2)


def test_an_attack_without_a_gradient_is_called_masked(network):
    with pytest.warns(MaskedAttackWarning, match="no gradient at 100%"):
        found = measured(Rounded(network), epsilons=["8/255"], steps=[3])
    assert "no sign of robustness" in found["attacks"][0]["masked"]


FIGURES = {
    "steps": 20,
    "epsilon": "8/255",
    "no_gradient": 0.0,
    "bits_changed": 3.0,
    "noise_bits_changed": 1.0,
}


@pytest.mark.parametrize(
    ("changes", "wide", "words"),
    [
        ({}, 0.9, None),
        ({"bits_changed": 0.0, "noise_bits_changed": 0.0}, 0.9, None),  # a small budget
        ({"bits_changed": 0.0, "noise_bits_changed": 0.0}, 0.1, "changed 10% of the bits"),
        ({"bits_changed": 1.0}, 0.9, "random signs of its size 1.0"),
        ({"no_gradient": 0.2}, 0.9, "no gradient at 20%"),
    ],
)
def test_an_attack_that_does_nothing_is_told_from_a_small_one(changes, wide, words):
    found = masked({**FIGURES, **changes}, wide)
    assert (found is None) if words is None else (words in found)


def test_no_attack_is_refused(network):
    with pytest.raises(ConfigurationError, match="No attack is named"):
        measured(network, epsilons=[])


def test_training_against_the_attack_trains_on_what_a_plain_loop_finds(network, inputs):
    method = HAG(epsilon=0.1, steps=3, step_size=0.05, seed=4)
    other = HAG(epsilon=0.1, seed=4)  # has the same random start
    twin, seen = deepcopy(network), []  # the training pass moves the running statistics

    def criterion(outputs, targets):
        seen.append(outputs.detach())
        return outputs.square().mean()

    network.train()
    with method.attach(network), other.attach(nn.Flatten()):
        start = Linf(0.1).start(inputs, other.generator(inputs))
        method.step(
            network, Batch(inputs, torch.full((len(inputs),), -1)), criterion, Tensor.backward
        )
    twin.eval()
    attacked = (inputs + start).clamp(0, 1)
    own = twin(inputs)
    signs = torch.where(own > 0, 1.0, -1.0) / own.abs().mean(1, keepdim=True)
    for _ in range(3):
        attacked = attacked.detach().requires_grad_()
        apart = (1 / (1 + (signs.detach() * twin(attacked)).exp())).sum()
        (gradient,) = torch.autograd.grad(apart, attacked)
        attacked = attacked.detach() + 0.05 * gradient.sign()
        attacked = torch.minimum(torch.maximum(attacked, inputs - 0.1), inputs + 0.1).clamp(0, 1)
    twin.train()
    assert (attacked - inputs).abs().max() <= 0.1 + 1e-6
    torch.testing.assert_close(seen[0], twin(attacked).detach(), rtol=1e-4, atol=1e-5)
    assert build_method("advreg.hashing.hag:HAG", epsilon="2/255").epsilon == 2 / 255
