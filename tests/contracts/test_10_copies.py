"""Semantic 10: a copy of an attached network is a plain, detached one."""

import copy
import io
import pickle

import pytest
import torch
from settings import (
    ADVERSARIES,
    HOOKED,
    MEMORIES,
    SETTINGS,
    identical,
    loss_of,
    tiny,
    train,
    walk,
    weights,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    assert b"advreg" not in file.getvalue().replace(b"_advreg", b"")
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(model):
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    return average.module


def hooks(model):
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def passed(model, stream):
    """What plain training passes leave: losses, gradients and the network's state."""
    model.zero_grad()
    losses = []
    for batch in stream:
        torch.manual_seed(0)
        losses.append(loss_of(model, batch))
        losses[-1].backward()
    return [
        [loss.detach() for loss in losses],
        [p.grad for p in model.parameters()],
        weights(model),
    ]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved, averaged])
@pytest.mark.parametrize("name", HOOKED)
def test_a_copy_is_a_detached_network(name, duplicate):
    """It behaves as one, leaves the original attached, and can be attached to and detached from."""
    setting, model = SETTINGS[name], tiny()
    method, stream = setting.method(), list(setting.batches(2, seed=7))
    with method.attach(model, steps_per_epoch=4):
        train(model, method, setting.batches(3))
        before = copy.deepcopy(method.state_dict())
        other, plain = duplicate(model), tiny()
        plain.load_state_dict(model.state_dict())
        assert type(other) is type(model)
        assert not hooks(other)
        assert hooks(model)
        assert identical(passed(other, stream), passed(plain, stream))
        assert identical(method.state_dict(), before)
        losses = []
        for twin in (other, plain):
            again = setting.method()
            torch.manual_seed(0)
            with again.attach(twin, steps_per_epoch=4):
                losses.append(train(twin, again, stream))
            assert not hooks(twin)
        assert losses[0].equal(losses[1])
    for module, plain in zip(model.modules(), tiny().modules(), strict=True):
        assert vars(module).keys() == vars(plain).keys()


def test_a_copy_of_an_attached_network_can_be_scripted():
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh())
    with ADVERSARIES["slot"].adversary().attach(model):
        torch.jit.script(copy.deepcopy(model))


def test_an_average_follows_the_weights_and_is_never_perturbed():
    setting = SETTINGS["layerwise-slot"]
    model, method = tiny(), setting.method()
    with method.attach(model):
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.0))
        for batch in setting.batches(3):
            train(model, method, [batch])
            average.update_parameters(model)
            average.train()
            with method.adversary.paused():
                assert average(batch.inputs).equal(copy.deepcopy(model)(batch.inputs))


@pytest.mark.parametrize("name", MEMORIES)
def test_a_copy_of_an_attached_adversary_is_a_detached_one(name):
    setting, model = ADVERSARIES[name], tiny()
    adversary = setting.adversary()
    with adversary.attach(model):
        walk(model, adversary, setting.batches(2))
        expected = copy.deepcopy(adversary.state_dict())
        for copied in (copy.deepcopy(adversary), pickled(adversary)):
            assert copied.config == adversary.config
            assert identical(copied.state_dict(), expected)
            other = tiny()
            copied.load_state_dict(expected)
            with copied.attach(other):
                walk(other, copied, setting.batches(1))
        assert identical(adversary.state_dict(), expected)
