"""Virtual adversarial training, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import (
    assert_seeded,
    assert_twins,
    divergence,
    epochs,
    gradient,
    keeping_statistics,
    network,
    train,
)

from advreg.losses import Task
from advreg.methods import VAT


def unit(vectors):
    return vectors / vectors.flatten(1).norm(dim=1)[:, None, None, None]


def twin(epsilon, xi):
    generator = torch.Generator().manual_seed(0)

    def loss(model, batch):
        x = batch.inputs
        outputs = model(x)
        p = outputs.detach()
        d = unit(torch.empty_like(x).normal_(generator=generator))
        u = unit(gradient(model, x + xi * d, lambda nearby: divergence(p, nearby)))
        with keeping_statistics(model):
            nearby = model((x + epsilon * u).clamp(0, 1))
        return F.cross_entropy(outputs, batch.targets) + divergence(p, nearby)

    return loss


def test_equals_its_equation():
    # A longer probe: the definition of the divergence, p log(p / q), is itself inexact near zero.
    assert_twins(VAT(epsilon=0.5, xi=1e-3), twin(0.5, 1e-3), epochs())


def second_order(model, inputs, unit_vectors):
    """What the probe stands for: the divergence's Hessian times unit vectors, exactly."""
    leaf = inputs.clone().requires_grad_()
    with keeping_statistics(model):
        outputs = model(leaf)
    value = F.kl_div(outputs.log_softmax(1), outputs.detach().softmax(1), reduction="batchmean")
    (first,) = torch.autograd.grad(value, leaf, create_graph=True)
    return torch.autograd.grad((first * unit_vectors).sum(), leaf)[0]


def noise(inputs, dtype):
    """The unit vectors that the method draws for inputs of a type, in float64."""
    generator = torch.Generator().manual_seed(0)
    return unit(torch.empty(inputs.shape, dtype=dtype).normal_(generator=generator).double())


def probed(model, inputs, autocast=False, **settings):
    method = VAT(**settings)
    with method.attach(model), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with keeping_statistics(model):
            outputs = model(inputs).detach()
        return method._turning(inputs, outputs, Task())


def cosine(first, second):
    return F.cosine_similarity(first.flatten(1).double(), second.flatten(1).double())


def confident(dtype):
    """As sure as 0.9999984 of an answer; no norm, through which the unsure would speak for all."""
    model = network(dtype)
    model[1] = model[4] = torch.nn.Identity()
    model[-1].weight.data *= 1000
    return model


def test_the_probe_finds_the_second_order_direction():
    inputs = next(epochs(1)).inputs
    exact = second_order(network(), inputs, noise(inputs, torch.float64))
    assert cosine(probed(network(), inputs), exact).min() > 1 - 1e-6


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("build", [network, confident])
def test_the_probe_works_in_float32_also_under_autocast(build, autocast):
    inputs = next(epochs(1)).inputs
    exact = second_order(build(torch.float64), inputs, noise(inputs, torch.float32))
    found = probed(build(torch.float32), inputs.float(), autocast)
    assert found.dtype == torch.float32
    assert cosine(found, exact).min() > 0.99


def test_the_labels_do_not_enter_the_direction():
    model, method = network(), VAT()
    batch = next(epochs(1))
    grads = []
    for targets in (batch.targets, (batch.targets + 1) % 3):
        method = VAT(epsilon=0.5)
        seen = []
        handle = model.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with method.attach(model), keeping_statistics(model):
            method.step(
                model,
                type(batch)(batch.inputs, targets),
                F.cross_entropy,
                torch.Tensor.backward,
            )
        handle.remove()
        grads.append(seen[-1])
    assert grads[0].equal(grads[1])


def test_the_batch_statistics_are_the_clean_passes():
    model, plain = network(), network()
    batch, method = next(epochs(1)), VAT()
    with method.attach(model):
        train(model, method, [batch])
    plain(batch.inputs)
    assert model[1].running_mean.equal(plain[1].running_mean)
    assert model[1].num_batches_tracked == 1


def test_seeded():
    assert_seeded(VAT)
