"""SLAT equals its equation, and FGSM training where there is no latent budget."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, gradient, keeping_statistics, network, passes, train

from advreg.methods import FGSM, SLAT


def twin(epsilon, eta):
    """Perturbed after both ReLUs."""

    def step(model, batch):
        inputs = batch.inputs.clone().requires_grad_()
        with keeping_statistics(model):
            first = model[:3](inputs)
            second = model[3:6](first)
            loss = F.cross_entropy(model[6:](second), batch.targets)
            at = torch.autograd.grad(loss, [inputs, first, second])
        signs = [one.sign() for one in at]
        first = model[:3]((batch.inputs + epsilon * signs[0]).clamp(0, 1)) + eta * signs[1]
        second = model[3:6](first) + eta * signs[2]
        return F.cross_entropy(model[6:](second), batch.targets)

    return step


@pytest.mark.parametrize("sites", [None, ["2", "5"], ["input", "2", "5"]], ids=str)
def test_equals_its_equation(sites):
    assert_twins(SLAT(0.1, 0.05, sites), twin(0.1, 0.05), epochs())


def test_without_a_latent_budget_it_is_fgsm_training_alone():
    def step(model, batch):
        def loss(outputs):
            return F.cross_entropy(outputs, batch.targets)

        sign = gradient(model, batch.inputs, loss).sign()
        return loss(model((batch.inputs + 0.1 * sign).clamp(0, 1)))

    assert_twins(SLAT(0.1, 0.0), step, epochs())


def test_fgsm_with_next_to_no_clean_loss_is_its_limit():
    """The class itself cannot have clean_weight 0, for its clean pass gives the gradient."""
    losses = []
    for method in (SLAT(0.1, 0.0), FGSM(0.1, clean_weight=1e-9)):
        model = network().eval()  # in training FGSM's clean pass counts for the batch statistics
        with method.attach(model):
            losses.append(train(model, method, epochs(1)))
    torch.testing.assert_close(*losses, rtol=1e-7, atol=0)


def test_passes_and_what_the_first_one_leaves():
    assert SLAT().passes == 2
    # The first backward pass stops at the sites and skips the weights.
    assert passes(SLAT(), epochs(1)) == (2, 2)
    model, method = network(), SLAT()
    batch = next(epochs())
    with method.attach(model):
        method._moves(batch, F.cross_entropy)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model[1].num_batches_tracked == 0
