"""Semantic 12: extra passes run paused and leave every flag and statistic as they found them."""

import copy

import pytest
import torch
from probes import probing
from settings import (
    ADVERSARIES,
    MEMORIES,
    SETTINGS,
    STEPS,
    identical,
    loss_of,
    tiny,
    train,
    walk,
    weights,
)
from torch import nn

from advreg import LayerwiseAdversary
from advreg.layerwise import paused
from advreg.modes import evaluating, frozen_statistics


def warm(name):
    """An attached network with memories, its adversary, the handle and a fresh mini-batch."""
    setting, model = ADVERSARIES[name], tiny()
    adversary = setting.adversary()
    handle = adversary.attach(model)
    walk(model, adversary, setting.batches(3))
    return model, adversary, handle, next(setting.batches(1, seed=9))


def plain_copy(model):
    other = tiny()
    other.load_state_dict(model.state_dict())
    other.train(model.training)
    return other


def outcome(model, batch, backward=True):
    """Output, gradients and statistics of one pass."""
    model.zero_grad()
    output = model(batch.inputs)
    if backward:
        nn.functional.cross_entropy(output, batch.targets).backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [output.detach().clone(), gradients, weights(model)]


@pytest.mark.parametrize("name", [*MEMORIES, "slot-clamped"])
def test_the_network_is_untouched(name):
    """Paused, in evaluation, without gradients and once detached, to the bit; else perturbed."""
    model, adversary, handle, batch = warm(name)
    state = copy.deepcopy(adversary.state_dict())

    def untouched(backward=True):
        plain = plain_copy(model)
        assert identical(outcome(model, batch, backward), outcome(plain, batch, backward))
        assert identical(adversary.state_dict(), state)

    with adversary.paused():
        untouched()
    with torch.no_grad():
        untouched(backward=False)
    with torch.inference_mode():
        untouched(backward=False)
    model.eval()
    untouched()
    model.train()
    adversary.set_batch(batch.indices, batch.view)
    plain = plain_copy(model)
    assert not outcome(model, batch)[0].equal(outcome(plain, batch)[0])
    state = copy.deepcopy(adversary.state_dict())
    handle.detach()
    untouched()


@pytest.mark.parametrize("name", MEMORIES)
def test_extra_passes_leave_the_training_as_it_was(name):
    """An evaluation and an attack in mid-epoch change no bit of what follows."""
    setting = ADVERSARIES[name]
    ends = []
    for extra in (False, True):
        model, adversary = tiny(), setting.adversary()

        def loss(model, batch, adversary, extra=extra):
            adversary.set_batch(batch.indices, batch.view)
            if extra:
                with adversary.paused(), frozen_statistics(model):
                    images = batch.inputs.clone().requires_grad_()
                    torch.autograd.grad(model(images).sum(), images)
                with torch.no_grad(), evaluating(model):
                    model(batch.inputs[:3])
            return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

        with adversary.attach(model):
            losses = walk(model, adversary, setting.batches(5), loss)
            ends.append([losses, weights(model), copy.deepcopy(adversary.state_dict())])
    assert identical(*ends)


def test_pauses_nest_and_end_on_an_exception():
    model, adversary, handle, batch = warm("slot")
    plain = outcome(plain_copy(model), batch)[0]

    def perturbed():
        kept = weights(model)
        output = outcome(model, batch)[0]
        model.load_state_dict(kept)
        return not output.equal(plain)

    with adversary.paused():
        with pytest.raises(KeyError), adversary.paused():
            raise KeyError
        assert not perturbed()
    assert perturbed()
    handle.detach()


def test_only_the_networks_own_mode_counts():
    """A frozen submodule in training is perturbed, a training one in evaluation is not."""
    model, adversary = tiny(), LayerwiseAdversary(0.1, ["stage.0", "stage.1"], relative=False)
    model.stage[0].eval()
    with probing(model, adversary, "stage.0", "stage.1") as probes:
        walk(model, adversary, ADVERSARIES["slot"].batches(2))
        for probe in probes:
            assert probe.deltas()[1].abs().max().item() == pytest.approx(0.1, abs=1e-6)
            probe.clear()
        model.eval()
        model.stage.train()
        loss_of(model, next(ADVERSARIES["slot"].batches(1)))
        assert not any(probe.deltas()[0].any() for probe in probes)


@pytest.mark.parametrize("name", STEPS)
def test_methods_leave_flags_statistics_and_hooks(name):
    """Also those of a network that is partly frozen; in evaluation mode it is the plain one."""
    setting, model = SETTINGS[name], tiny()
    model.stage[0].eval()
    flags = [module.training for module in model.modules()]
    frozen = copy.deepcopy(model.stage[0].norm.state_dict())
    batch, method = next(setting.batches(1)), setting.method()
    with method.attach(model, steps_per_epoch=4):
        train(model, method, setting.batches(3))
        assert [module.training for module in model.modules()] == flags
        assert all(p.requires_grad for p in model.parameters())
        state = copy.deepcopy(method.state_dict())
        with torch.no_grad(), evaluating(model):
            assert model(batch.inputs).equal(plain_copy(model)(batch.inputs))
        assert identical(method.state_dict(), state)
    assert [module.training for module in model.modules()] == flags
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert model.stage[0].norm.state_dict()[key].equal(frozen[key])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(module.track_running_stats for module in model.modules() if hasattr(module, "eps"))


def test_pausing_a_network_that_no_adversary_can_be_attached_to():
    model = nn.DataParallel(nn.Linear(3, 2))
    with paused(model):
        assert model(torch.zeros(1, 3)).shape == (1, 2)
