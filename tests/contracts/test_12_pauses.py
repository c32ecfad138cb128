"""Semantic 12: extra passes run paused and leave every flag and statistic as they found them."""

import copy

import pytest
import torch
from probes import probing
from settings import ADVERSARIES, METHODS, SETTINGS, identical, loss_of, tiny, train, walk, weights
from torch import nn

from advreg import LayerwiseAdversary
from advreg.layerwise import paused
from advreg.modes import evaluating, frozen_statistics


def adversaries(function):
    return pytest.mark.parametrize("name", ADVERSARIES)(function)


def warm(name):
    """An attached network with memories, its adversary and a fresh mini-batch."""
    setting, model = ADVERSARIES[name], tiny()
    adversary = setting.adversary()
    adversary.attach(model)
    walk(model, adversary, setting.batches(3))
    return model, adversary, next(setting.batches(1, seed=9))


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
        torch.nn.functional.cross_entropy(output, batch.targets).backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [output.detach().clone(), gradients, weights(model)]


@adversaries
def test_the_attached_network_is_perturbed_at_all(name):
    """Without this the tests of the untouched network below could not fail."""
    model, adversary, batch = warm(name)
    plain = plain_copy(model)
    adversary.set_batch(batch.indices, batch.view)
    assert not outcome(model, batch)[0].equal(outcome(plain, batch)[0])


@adversaries
@pytest.mark.parametrize("mode", ["paused", "eval", "no_grad", "inference_mode"])
def test_the_network_is_untouched(name, mode):
    model, adversary, batch = warm(name)
    state = copy.deepcopy(adversary.state_dict())
    plain = plain_copy(model)
    with_gradient = mode in ("paused", "eval")
    if mode == "eval":
        model.eval()
        plain.eval()
    context = {
        "paused": adversary.paused,
        "eval": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
    }[mode]
    with context():
        seen = outcome(model, batch, with_gradient)
        assert identical(seen, outcome(plain, batch, with_gradient))
    assert identical(adversary.state_dict(), state)


@adversaries
def test_extra_passes_leave_the_training_as_it_was(name):
    """An evaluation and an attack in mid-epoch change no bit of what follows."""
    setting = ADVERSARIES[name]
    ends = []
    for extra in (False, True):
        model, adversary = tiny(), setting.adversary()
        losses = []
        with adversary.attach(model):
            for batch in setting.batches(5):
                adversary.set_batch(batch.indices, batch.view)
                if extra:
                    with adversary.paused(), frozen_statistics(model):
                        images = batch.inputs.clone().requires_grad_()
                        torch.autograd.grad(model(images).sum(), images)
                    with torch.no_grad(), evaluating(model):
                        model(batch.inputs[:3])
                loss = torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets)
                loss.backward()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter -= 0.1 * parameter.grad
                model.zero_grad()
                losses.append(loss.detach())
            ends.append([losses, weights(model), copy.deepcopy(adversary.state_dict())])
    assert identical(*ends)


def test_pauses_nest_and_end_on_an_exception():
    model, adversary, batch = warm("slot")
    plain = outcome(plain_copy(model), batch)[0]

    def perturbed():
        with torch.random.fork_rng():
            kept = weights(model)
            output = outcome(model, batch)[0]
            model.load_state_dict(kept)
        return not output.equal(plain)

    with adversary.paused():
        with pytest.raises(KeyError), adversary.paused():
            raise KeyError
        assert not perturbed()
    assert perturbed()


def test_a_frozen_submodule_of_a_training_network_is_perturbed():
    model, adversary = tiny(), LayerwiseAdversary(0.1, ["stage.0", "stage.1"], relative=False)
    model.stage[0].eval()
    with probing(model, adversary, "stage.0", "stage.1") as probes:
        walk(model, adversary, ADVERSARIES["slot"].batches(2))
        for probe in probes:
            assert probe.deltas()[1].abs().max().item() == pytest.approx(0.1, abs=1e-6)


def test_a_training_submodule_of_a_network_in_evaluation_is_not():
    model, adversary = tiny(), LayerwiseAdversary(0.1, ["stage.0"])
    with probing(model, adversary, "stage.0") as probe:
        walk(model, adversary, ADVERSARIES["slot"].batches(2))
        model.eval()
        model.stage.train()
        probe.clear()
        loss_of(model, next(ADVERSARIES["slot"].batches(1)))
        assert not probe.deltas()[0].any()


@adversaries
def test_detaching_leaves_the_plain_network(name):
    model, adversary, batch = warm(name)
    plain = plain_copy(model)
    state = copy.deepcopy(adversary.state_dict())
    adversary._attachment.detach()
    assert identical(outcome(model, batch), outcome(plain, batch))
    assert identical(adversary.state_dict(), state)


@pytest.mark.parametrize("name", METHODS)
def test_methods_leave_flags_statistics_flags_and_hooks(name):
    """Also those of a network that is partly frozen."""
    setting, model = SETTINGS[name], tiny()
    model.stage[0].eval()
    flags = [module.training for module in model.modules()]
    frozen = copy.deepcopy(model.stage[0].norm.state_dict())
    with setting.method().attach(model, steps_per_epoch=4):
        pass
    method = setting.method()
    with method.attach(model, steps_per_epoch=4):
        train(model, method, setting.batches(3))
        assert [module.training for module in model.modules()] == flags
        assert all(p.requires_grad for p in model.parameters())
    assert [module.training for module in model.modules()] == flags
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert model.stage[0].norm.state_dict()[key].equal(frozen[key])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(module.track_running_stats for module in model.modules() if hasattr(module, "eps"))


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_of_an_attached_method_is_plain(name):
    setting, model = SETTINGS[name], tiny()
    method = setting.method()
    with method.attach(model, steps_per_epoch=4):
        train(model, method, setting.batches(3))
        model.eval()
        batch = next(setting.batches(1))
        state = copy.deepcopy(method.state_dict())
        with torch.no_grad():
            assert model(batch.inputs).equal(plain_copy(model)(batch.inputs))
        assert identical(method.state_dict(), state)


def test_pausing_a_network_that_no_adversary_can_be_attached_to():
    model = nn.DataParallel(nn.Linear(3, 2))
    with paused(model):
        assert model(torch.zeros(1, 3)).shape == (1, 2)
