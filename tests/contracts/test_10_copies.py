"""Semantic 10: a copy of an attached network is a plain, detached one."""

import copy
import io
import pickle

import pytest
import torch
from settings import ADVERSARIES, SETTINGS, identical, loss_of, tiny, train, walk, weights
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(model):
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    return average.module


COPIES = [copy.deepcopy, pickled, saved, averaged]


@pytest.fixture(params=SETTINGS)
def attached(request):
    """A network in the middle of its training, and what to go on with."""
    setting = SETTINGS[request.param]
    model, method = tiny(), setting.method()
    with method.attach(model, steps_per_epoch=4):
        train(model, method, setting.batches(3))
        yield model, method, setting


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_behaves_as_a_detached_network(attached, duplicate):
    model, _, setting = attached
    other, plain = duplicate(model), tiny()
    plain.load_state_dict(model.state_dict())
    assert type(other) is type(model)
    for twin in (other, plain):
        twin.zero_grad()
    for batch in setting.batches(2, seed=7):
        torch.manual_seed(0)
        mine = loss_of(other, batch)
        torch.manual_seed(0)
        theirs = loss_of(plain, batch)
        mine.backward()
        theirs.backward()
        assert mine.equal(theirs)
    assert identical([p.grad for p in other.parameters()], [p.grad for p in plain.parameters()])
    assert identical(weights(other), weights(plain))


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_leaves_the_original_attached(attached, duplicate):
    model, method, setting = attached
    before = copy.deepcopy(method.state_dict())
    other = duplicate(model)
    for batch in setting.batches(1, seed=7):
        loss_of(other, batch).backward()
    assert identical(method.state_dict(), before)


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_can_be_attached_to_and_detached_from(attached, duplicate):
    model, _, setting = attached
    other, fresh = duplicate(model), setting.method()
    plain = tiny()
    plain.load_state_dict(model.state_dict())
    losses = []
    for twin, method in ((other, fresh), (plain, setting.method())):
        torch.manual_seed(0)
        with method.attach(twin, steps_per_epoch=4):
            losses.append(train(twin, method, setting.batches(3, seed=7)))
    assert losses[0].equal(losses[1])


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
                model_copy = copy.deepcopy(model)
                assert average(batch.inputs).equal(model_copy(batch.inputs))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_a_copy_of_an_attached_adversary_is_a_detached_one(name):
    model, adversary = tiny(), ADVERSARIES[name].adversary()
    with adversary.attach(model):
        walk(model, adversary, ADVERSARIES[name].batches(2))
        copied = copy.deepcopy(adversary)
        expected = copy.deepcopy(adversary.state_dict())
        assert identical(copied.state_dict(), expected)
        other = tiny()
        copied.load_state_dict(expected)
        with copied.attach(other):
            walk(other, copied, ADVERSARIES[name].batches(1))
        assert identical(adversary.state_dict(), expected)
