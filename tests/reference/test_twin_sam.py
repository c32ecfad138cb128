"""SAM equals its equation, and leaves weights and gradients as they should be."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, keeping_statistics, network
from torch.func import functional_call

from advreg.methods import SAM, Standard


def climbed(model, batch, rho):
    """The parameters at theta + rho * grad / |grad|, by name, still functions of theta."""
    loss = F.cross_entropy(model(batch.inputs), batch.targets)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    length = sum(g.square().sum() for g in gradients).sqrt()
    return {n: p + rho * g / length for n, p, g in zip(names, parameters, gradients, strict=True)}


@pytest.mark.parametrize("rho", [0.05, 1.0])
def test_equals_its_equation(rho):
    def step(model, batch):
        moved = climbed(model, batch, rho)  # this pass counts for the batch statistics
        with keeping_statistics(model):
            outputs = functional_call(model, moved, batch.inputs)
        return F.cross_entropy(outputs, batch.targets)

    assert_twins(SAM(rho), step, epochs())


def step(method, model, batch, backward=torch.Tensor.backward):
    with method.attach(model):
        return method.step(model, batch, F.cross_entropy, backward).loss


def grads(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_rho_zero_is_plain():
    batch, sam, plain = next(epochs()), network(), network()
    assert step(SAM(0), sam, batch).equal(step(Standard(), plain, batch))
    assert all(map(torch.equal, grads(sam), grads(plain)))
    assert all(map(torch.equal, sam.buffers(), plain.buffers()))


def test_micro_batches_each_climb_along_their_own_gradient():
    first, second = list(epochs())[:2]
    alone = []
    for batch in (first, second):
        model = network()
        step(SAM(), model, batch)
        alone.append(grads(model))
    model = network()
    for batch in (first, second):
        step(SAM(), model, batch)
    for gradient, *parts in zip(grads(model), *alone, strict=True):
        torch.testing.assert_close(gradient, sum(parts))


@pytest.mark.parametrize("scale", [2.0**16, 1e-30])
def test_loss_scaling_scales_the_gradient_alone(scale):
    batch, model, scaled = next(epochs()), network(), network()
    step(SAM(), model, batch)
    step(SAM(), scaled, batch, lambda loss: (scale * loss).backward())
    for one, other in zip(grads(model), grads(scaled), strict=True):
        torch.testing.assert_close(other / scale, one)


def failing(message, at):
    """A criterion that raises in its `at`-th call."""
    calls = []

    def criterion(outputs, targets):
        calls.append(None)
        if len(calls) == at:
            raise RuntimeError(message)
        return F.cross_entropy(outputs, targets)

    return criterion


@pytest.mark.parametrize("at", [1, 2])
def test_an_exception_leaves_weights_and_earlier_gradients(at):
    first, second = list(epochs())[:2]
    model, method = network(torch.float32), SAM(0.3)
    first, second = (b.with_inputs(b.inputs.float()) for b in (first, second))
    step(method, model, first)
    before, earlier = [p.detach().clone() for p in model.parameters()], grads(model)
    with pytest.raises(RuntimeError, match="stop"), method.attach(model):
        method.step(model, second, failing("stop", at), torch.Tensor.backward)
    assert all(map(torch.equal, model.parameters(), before))
    assert all(map(torch.equal, grads(model), earlier))
    assert all(module.training for module in model.modules())


def test_weights_come_back_bit_for_bit():
    """In float32 adding and subtracting the same step would not."""
    model = network(torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    batch = next(epochs(dtype=torch.float32))
    seen = []
    model.register_forward_hook(lambda *_: seen.append(model[0].weight.detach().clone()))
    step(SAM(0.3), model, batch)
    assert all(map(torch.equal, model.parameters(), before))
    assert seen[0].equal(before[0])
    assert not seen[1].equal(before[0])


def test_a_gradient_that_is_not_finite_climbs_nothing():
    batch, sam, plain = next(epochs()), network(), network()
    factors = iter([torch.inf, 1.0])
    loss = step(SAM(), sam, batch, lambda loss: (next(factors) * loss).backward())
    assert loss.equal(step(Standard(), plain, batch))
    assert all(map(torch.equal, grads(sam), grads(plain)))


def test_autocast_sees_the_moved_weights():
    """Its cache of half-precision weights would hide them."""
    batch = next(epochs(dtype=torch.float32))
    losses = []
    for rho in (0.0, 2.0):
        model = network(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(step(SAM(rho), model, batch))
            after = F.cross_entropy(model(batch.inputs), batch.targets)
    plain = network(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert after.equal(F.cross_entropy(plain(batch.inputs), batch.targets))
    assert losses[1] > losses[0] + 0.1


def test_frozen_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    step(SAM(), model, next(epochs()))
    assert model[0].weight.grad is None
