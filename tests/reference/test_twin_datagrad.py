"""DataGrad equals its equations, its two gradients each other's to first order, and FGSM's."""

import math

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, network, train
from torch import nn

from advreg import Batch
from advreg.errors import ConfigurationError, SiteError
from advreg.methods import FGSM, DataGrad, Standard


def size(gradient, norm):
    return gradient.abs().sum() if norm == "l1" else gradient.square().sum() / 2


def gradients(model, batch, create_graph=False):
    """The mean loss, and each example's gradient at the input and after the first ReLU."""
    inputs = batch.inputs.clone().requires_grad_()
    hidden = model[:3](inputs)
    losses = F.cross_entropy(model[3:](hidden), batch.targets, reduction="none")
    at = torch.autograd.grad(
        losses.sum(), [inputs, hidden], create_graph=create_graph, retain_graph=True
    )
    return losses.mean(), at


@pytest.mark.parametrize(
    ("norm", "sites"), [("l1", ["input"]), ("l2", ["2"]), ("l1", ["input", "2"])], ids=str
)
def test_exact_is_the_penalty_on_each_examples_gradient(norm, sites):
    def step(model, batch):
        loss, at = gradients(model, batch, create_graph=True)
        chosen = [g for site, g in zip(["input", "2"], at, strict=True) if site in sites]
        penalty = sum(size(g[i], norm) for g in chosen for i in range(len(batch)))
        return loss + 0.3 * penalty / len(batch)

    assert_twins(DataGrad(0.3, norm, sites, exact=True), step, epochs())


@pytest.mark.parametrize("weight", [0.02, 0.3], ids=["mixes", "extrapolates"])
@pytest.mark.parametrize(
    ("norm", "sites"), [("l1", ["input"]), ("l2", ["2"]), ("l1", ["input", "2"])], ids=str
)
def test_finite_difference_is_the_papers(norm, sites, weight):
    def step(model, batch):
        loss, at = gradients(model, batch)
        moves = [0.05 * (g.sign() if norm == "l1" else g) for g in at]
        at_input, at_hidden = (
            move if site in sites else 0 for site, move in zip(["input", "2"], moves, strict=True)
        )
        outputs = model[3:](model[:3](batch.inputs + at_input) + at_hidden)
        return loss + weight * (F.cross_entropy(outputs, batch.targets) - loss) / 0.05

    assert_twins(DataGrad(weight, norm, sites, phi=0.05), step, epochs())


def smooth(norm=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.Softplus(),
        nn.Linear(8, 3),
    ).double()


def weight_gradient(method, batch, backward=torch.Tensor.backward, normalised=False):
    model = smooth(normalised)
    with method.attach(model):
        method.step(model, batch, F.cross_entropy, backward)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("norm", "sites", "normalised"),
    [("l1", ["input"], False), ("l2", ["2"], True), ("l2", ["input", "5"], False)],
    ids=str,
)
def test_the_two_agree_to_first_order_in_phi(norm, sites, normalised):
    """In float64 and without kinks; batch statistics couple the examples alike in both."""

    def gradient(method):
        return weight_gradient(method, batch, normalised=normalised)

    batch = next(epochs())
    exact = gradient(DataGrad(0.1, norm, sites, exact=True))
    size = (exact - gradient(Standard())).norm()
    phis = [10.0**-k for k in (3, 4, 5)]
    errors = [(gradient(DataGrad(0.1, norm, sites, phi=phi)) - exact).norm() / size for phi in phis]
    slopes = [math.log10(errors[i] / errors[i + 1]) for i in range(2)]
    assert slopes == pytest.approx([1, 1], abs=0.03)
    assert errors[-1] < 1e-3


def test_the_penalty_does_not_depend_on_the_batch_size():
    batch = next(epochs())
    twice = Batch(batch.inputs.repeat(2, 1, 1, 1), batch.targets.repeat(2))
    for method in (DataGrad(0.3, "l2", exact=True), DataGrad(0.3, "l2", phi=0.1)):
        torch.testing.assert_close(weight_gradient(method, twice), weight_gradient(method, batch))


def test_half_of_phi_in_l1_is_fgsm_training():
    losses = []
    for method in (DataGrad(0.05, phi=0.1), FGSM(0.1, clean_weight=0.5)):
        model = network()
        del model.input_range  # DataGrad does not clamp
        with method.attach(model):
            losses.append(train(model, method, epochs()))
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_loss_scaling_scales_the_gradient_alone(norm):
    batch = next(epochs())
    method = DataGrad(0.3, norm, phi=0.1)
    scaled = weight_gradient(method, batch, lambda loss: (2**10 * loss).backward())
    torch.testing.assert_close(scaled / 2**10, weight_gradient(method, batch))


def test_an_infinite_gradient_moves_nothing():
    """Overflow under loss scaling: the scaler drops the step, the second pass must still run."""
    batch, model, method = next(epochs()), network(), DataGrad(0.3, "l2", phi=0.1)
    with method.attach(model):
        output = method.step(
            model, batch, F.cross_entropy, lambda loss: (loss * torch.inf).backward()
        )
    plain = F.cross_entropy(network()(batch.inputs), batch.targets)
    torch.testing.assert_close(output.loss, plain.detach())


def test_bad_settings_are_named():
    with pytest.raises(ConfigurationError, match="norm is 'max'"):
        DataGrad(norm="max")
    with pytest.raises(ConfigurationError, match="phi is 0"):
        DataGrad(phi=0)
    with pytest.raises(ConfigurationError, match="exact"):
        DataGrad(weight="8/255", phi="8/255")
    with pytest.raises(ConfigurationError, match="weight"):
        DataGrad(weight=-1)
    with pytest.raises(SiteError, match="nowhere"), DataGrad(sites=["nowhere"]).attach(network()):
        pass
