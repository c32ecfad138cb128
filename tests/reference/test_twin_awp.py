"""AWP, alone and around other methods, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, divergence, epochs, gradient, keeping_statistics, network
from torch.func import functional_call

from advreg import LayerwiseAdversary
from advreg.errors import ConfigurationError
from advreg.methods import AWP, GAT, PGD, RSFGSM, SAM, Standard, build_method


def climbed(model, gamma, loss):
    """The parameters at w + v by name, still functions of w; `loss` is called at w."""
    with keeping_statistics(model):
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss(), parameters)
    return {
        name: w + gamma * w.detach().norm() * g / g.norm() if w.ndim > 1 else w
        for name, w, g in zip(names, parameters, gradients, strict=True)
    }


def plain(gamma, attack=lambda model, batch: batch.inputs):
    def step(model, batch):
        x, y = attack(model, batch), batch.targets
        moved = climbed(model, gamma, lambda: F.cross_entropy(model(x), y))
        return F.cross_entropy(functional_call(model, moved, x), y)

    return step


@pytest.mark.parametrize("gamma", [5e-3, 0.3])
def test_equals_its_equation(gamma):
    assert_twins(AWP(gamma), plain(gamma), epochs())


def random_start(epsilon, step):
    generator = torch.Generator().manual_seed(0)

    def attack(model, batch):
        x, y = batch.inputs, batch.targets
        start = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 * epsilon - epsilon
        start = (x + start).clamp(0, 1)
        g = gradient(model, start, lambda outputs: F.cross_entropy(outputs, y))
        return (x + (start - x + step * g.sign()).clamp(-epsilon, epsilon)).clamp(0, 1)

    return attack


def test_around_an_attack_both_passes_take_the_same_inputs():
    settings = {"rs_fgsm": {"epsilon": 0.2}, "awp": {"gamma": 0.1}}
    method = build_method("rs_fgsm+awp", **settings)
    assert method.passes == 3
    assert method.single_step
    assert_twins(method, plain(0.1, random_start(0.2, 0.25)), epochs())


def test_around_trades_both_of_its_passes_are_at_the_moved_weights():
    generator = torch.Generator().manual_seed(0)

    def step(model, batch):
        x, y = batch.inputs, batch.targets
        attacked = x + torch.empty_like(x).normal_(0, 0.001, generator=generator)
        model.eval()
        expected = model(x).detach()
        g = gradient(model, attacked, lambda outputs: divergence(expected, outputs))
        attacked = (attacked + 0.1 * g.sign()).clamp(x - 0.2, x + 0.2).clamp(0, 1)
        model.train()

        def loss(call):
            outputs = call(x)
            return F.cross_entropy(outputs, y) + 6 * divergence(outputs, call(attacked))

        moved = climbed(model, 0.1, lambda: loss(model))
        return loss(lambda inputs: functional_call(model, moved, inputs))

    trades = {"epsilon": 0.2, "step_size": 0.1, "steps": 1}
    method = build_method("awp+trades", trades=trades, awp={"gamma": 0.1})
    assert method.passes == 5
    assert_twins(method, step, epochs())


def test_around_layerwise_only_the_pass_at_the_moved_weights_is_perturbed_and_records():
    settings = {"epsilon": 0.1, "sites": ["input", "2"]}
    method, model = build_method("layerwise+awp", layerwise=settings), network()
    by_hand, adversary = network(), LayerwiseAdversary(**settings)
    optimizers = [torch.optim.SGD(one.parameters(), 0.1) for one in (model, by_hand)]
    with method.attach(model), adversary.attach(by_hand):
        for batch in epochs():
            x, y = batch.inputs, batch.targets
            losses = [method.step(model, batch, F.cross_entropy, torch.Tensor.backward).loss]
            with adversary.paused():
                moved = climbed(by_hand, 5e-3, lambda x=x, y=y: F.cross_entropy(by_hand(x), y))
            before = {name: value.detach().clone() for name, value in by_hand.named_parameters()}
            with torch.no_grad():
                for name, parameter in by_hand.named_parameters():
                    parameter.copy_(moved[name])
            losses.append(F.cross_entropy(by_hand(x), y))
            losses[1].backward()
            with torch.no_grad():
                for name, parameter in by_hand.named_parameters():
                    parameter.copy_(before[name])
            torch.testing.assert_close(*losses, rtol=1e-9, atol=0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()


def test_weights_and_earlier_gradients_come_back_also_after_an_exception():
    model, method = network(), build_method("pgd+awp", pgd={"steps": 1})
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []

    def broken(loss):
        calls.append(loss)
        if len(calls) == 2:
            raise RuntimeError
        loss.backward()

    with method.attach(model), pytest.raises(RuntimeError):
        method.step(model, next(epochs()), F.cross_entropy, broken)
    assert len(calls) == 2
    weights = dict(model.named_parameters())
    assert all(weights[name].equal(before[name]) for name in weights)
    assert all(parameter.grad.eq(1).all() for parameter in model.parameters())


def test_gamma_zero_is_plain():
    losses = []
    for method in (AWP(0), Standard()):
        model = network()
        with method.attach(model):
            batch = next(epochs())
            losses.append(method.step(model, batch, F.cross_entropy, torch.Tensor.backward).loss)
    assert losses[0].equal(losses[1])


def test_refusals():
    with pytest.raises(ConfigurationError, match="gamma"):
        AWP(-1)
    for other in ("sam", "mixup", "fgsm", "tdat", "awp"):
        with pytest.raises(ConfigurationError, match="cannot be composed"):
            build_method(f"awp+{other}")
    for method in (PGD(), RSFGSM(), GAT()):
        assert method.splits
    assert not SAM().splits
    with pytest.raises(ConfigurationError, match="does not split"):
        SAM().prepared(None, None)
