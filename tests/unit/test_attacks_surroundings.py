"""What an attack leaves as it was: an attached adversary, and training under autocast."""

import copy

import pytest
import torch
from test_attacks_gradient import examples, network

from advreg import LayerwiseAdversary
from advreg.attacks import Linf, cross_entropies, input_gradient, lots, pgd


@pytest.mark.parametrize("training", [False, True])
def test_an_attached_adversary_is_paused(training):
    """Neither does it perturb the attacked network, nor does it learn from the attack."""
    model, (inputs, targets) = network(), examples()
    adversary = LayerwiseAdversary(0.5, ["0"], relative=False)
    attacks = [
        lambda m: pgd(m, inputs, targets, Linf(0.1), 12, random_start=False),
        lambda m: input_gradient(m, inputs, targets),
        lambda m: lots(m, inputs, inputs.flip(0), "2", 12).images,
    ]
    with adversary.attach(model):
        cross_entropies(model.train()(inputs), targets).sum().backward()
        model.train(training)[1].eval()
        plain, before = copy.deepcopy(model), copy.deepcopy(adversary.state_dict())
        for attack in attacks:
            assert attack(model).equal(attack(plain))
        assert str(adversary.state_dict()) == str(before)


def test_training_under_autocast_goes_on_after_an_attack_with_restarts():
    """A weight cast without gradients must not be taken from autocast's cache afterwards."""
    model, (inputs, targets) = network(torch.float32), examples(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pgd(model, inputs, targets, Linf(0.1), 2, restarts=2)
        loss = cross_entropies(model(inputs), targets).mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
