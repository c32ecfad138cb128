"""Every method of the table: precisions, loss scaling, smaller batches, attacks, seeds."""

import copy
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from settings import SETTINGS, identical, sgd, tiny, train, weights

from advreg.methods import Layerwise

every = pytest.mark.parametrize("name", SETTINGS)


def trained(name, stream, *, model=None, look=None, autocast=False, scale=1.0, **settings):
    """The losses, weights and the method's state after steps over mini-batches.

    `look` is called with the network and the mini-batch before each step.
    """
    setting, model = SETTINGS[name], model or tiny()
    method, optimizer, losses = setting.build(**setting.arguments | settings), sgd(model), []

    def unscale(*_):
        for parameter in model.parameters():
            parameter.grad.div_(scale)

    optimizer.register_step_pre_hook(unscale)
    torch.manual_seed(0)
    with method.attach(model, steps_per_epoch=4):
        for batch in stream:
            if look:
                look(model, batch)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                losses += train(
                    model,
                    method,
                    [batch],
                    optimizer=optimizer,
                    backward=lambda loss: (scale * loss).backward(),
                )
        return [torch.stack(losses), weights(model), copy.deepcopy(method.state_dict())]


def finite(outcome):
    return all(value.isfinite().all() for value in [outcome[0], *outcome[1].values()])


@every
def test_bf16_autocast_follows_float32(name):
    plain = trained(name, SETTINGS[name].batches(6))
    lowered = trained(name, SETTINGS[name].batches(6), autocast=True)
    assert finite(lowered)
    assert not lowered[0].equal(plain[0])
    assert torch.allclose(lowered[0].float(), plain[0], rtol=0.05)


def test_the_tiny_probe_of_vat_runs_in_float32_under_autocast():
    """In bfloat16 it would change the answer by less than rounding does."""
    setting, model = SETTINGS["vat"], tiny()
    method, seen = setting.method(), []
    model.stem.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with method.attach(model), torch.autocast("cpu", torch.bfloat16):
        train(model, method, setting.batches(1))
    # The clean pass, its answer anew, the probe, the pass that smooths.
    assert seen == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]


@every
def test_a_scaled_loss_and_an_unscaled_gradient_give_the_same_weights(name):
    ends = []
    for scale in (1.0, 2.0**10):
        stream = SETTINGS[name].batches(4, dtype=torch.float64)
        ends.append(trained(name, stream, model=tiny(dtype=torch.float64), scale=scale))
    assert torch.allclose(ends[0][0], ends[1][0], rtol=1e-10)
    for key, value in ends[0][1].items():
        assert torch.allclose(value, ends[1][1][key], rtol=1e-10), key


@every
@pytest.mark.parametrize("size", [1, 3])
def test_a_smaller_batch_is_no_harm(name, size):
    setting = SETTINGS[name]
    small = list(setting.batches(1, size=size))
    assert finite(trained(name, [*small, *setting.batches(2), *small, *setting.batches(2)]))


@every
def test_weights_get_gradients_from_the_handed_backward_alone(name):
    """It finds none and leaves none, so that an attack's gradients would show."""
    setting, model = SETTINGS[name], tiny()
    method = setting.method()

    def backward(loss):
        assert all(parameter.grad is None for parameter in model.parameters())
        loss.backward()
        assert any(parameter.grad is not None for parameter in model.parameters())
        model.zero_grad()

    with method.attach(model, steps_per_epoch=4):
        for batch in setting.batches(3):
            method.step(model, batch, F.cross_entropy, backward)
            assert all(parameter.grad is None for parameter in model.parameters())


@every
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_look_without_gradients_changes_no_bit_of_the_training(name, context):
    """In training mode too, where dropout alone draws, from PyTorch's stream."""

    def look(model, batch):
        with context(), torch.random.fork_rng():
            model(batch.inputs)

    stream = list(SETTINGS[name].batches(5))
    plain = trained(name, stream, model=tiny(norm=False))
    assert identical(plain, trained(name, stream, model=tiny(norm=False), look=look))


@every
def test_the_same_seed_gives_the_same_bits_and_leaves_pytorchs_stream(name):
    stream = list(SETTINGS[name].batches(4))
    first = trained(name, stream)
    left = torch.get_rng_state()
    assert identical(first, trained(name, stream))
    torch.manual_seed(0)
    assert left.equal(torch.get_rng_state()) or name.startswith("dropout")


def draws(setting):
    """Whether the setting has random numbers of its own."""
    seeded = "seed" in [field.name for field in fields(setting.method())]
    return seeded and (setting.build is not Layerwise or "random" in str(setting.arguments))


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if draws(setting)])
def test_another_seed_gives_other_weights(name):
    ends = [trained(name, SETTINGS[name].batches(4), seed=seed)[1] for seed in (0, 1)]
    assert not identical(*ends)
