"""Semantic 2: the network's state has the same keys; restored states go on bit for bit."""

import copy
import io

import pytest
import torch
from settings import (
    ADVERSARIES,
    CARRYING,
    MEMORIES,
    METHODS,
    SETTINGS,
    identical,
    sgd,
    tiny,
    train,
    walk,
    weights,
)
from torch import nn

from advreg import LayerwiseAdversary
from advreg.errors import StateError

SIZES = (8, 3, 8, 1, 8, 5)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def names(model):
    return (
        type(model),
        list(model.state_dict()),
        [name for name, _ in model.named_parameters()],
        [name for name, _ in model.named_buffers()],
        [name for name, _ in model.named_modules()],
    )


def of_sizes(setting):
    """Mini-batches of other sizes than the one before, down to a single example."""
    streams = [setting.batches(6, size=size) for size in SIZES]
    return [batch for _ in range(2) for batch in map(next, streams)]


@pytest.mark.parametrize(
    ("name", "attached_first"),
    [
        *[(name, True) for name in METHODS],
        *[(f"layerwise-{name}", True) for name in MEMORIES if f"layerwise-{name}" not in METHODS],
        # Loaded before attaching, a state waits in the adversary, the base class or each part.
        *[(name, False) for name in ("layerwise-slot", "free", "composed-mixup")],
    ],
)
def test_restored_training_goes_on_bit_for_bit(name, attached_first):
    """Over mini-batches of several sizes; keys and PyTorch's random stream stay as they were."""
    setting = SETTINGS[name]
    stream = of_sizes(setting)
    model, method = tiny(), setting.method()
    before = names(model)
    optimizer, random = sgd(model), torch.get_rng_state()
    with method.attach(model, steps_per_epoch=6):
        assert names(model) == before
        train(model, method, stream[:5], optimizer=optimizer)
        assert names(model) == before
        assert torch.get_rng_state().equal(random) or name.startswith("dropout")
        saved = through_a_file([model.state_dict(), optimizer.state_dict(), method.state_dict()])
        random = torch.get_rng_state()
        losses = train(model, method, stream[5:], optimizer=optimizer)
        end = method.state_dict()
    assert names(model) == before
    assert losses.isfinite().all()
    if type(method) not in {type(SETTINGS[one].method()) for one in CARRYING}:
        assert end.keys() <= {"generators"}

    other, again = tiny(seed=5), setting.method()
    optimizer = sgd(other)
    other.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    torch.set_rng_state(random)
    if not attached_first:
        again.load_state_dict(saved[2])
    with again.attach(other, steps_per_epoch=6):
        if attached_first:
            again.load_state_dict(saved[2])
        resumed = train(other, again, stream[5:], optimizer=optimizer)
        assert identical(again.state_dict(), end)
    assert resumed.equal(losses)
    assert identical(weights(other), weights(model))


@pytest.mark.parametrize("name", MEMORIES)
def test_the_state_after_detaching_and_once_loaded(name):
    """It outlives detaching, is what was loaded until attaching, and is shared with nobody."""
    setting, model = ADVERSARIES[name], tiny()
    stream, adversary = list(setting.batches(5)), setting.adversary()
    with adversary.attach(model):
        walk(model, adversary, stream[:3])
        state = copy.deepcopy(adversary.state_dict())
    assert identical(adversary.state_dict(), state)
    kept, other = copy.deepcopy(state), setting.adversary()
    other.load_state_dict(state)
    assert identical(other.state_dict(), kept)
    with other.attach(tiny(seed=3)) as attachment:
        walk(attachment.network, other, stream[3:])
    assert identical(state, kept)


def test_memories_matter_to_what_follows_and_attaching_again_begins_without():
    """The first test of this file could not fail if the state made no difference."""
    stream = list(ADVERSARIES["slot"].batches(3))
    adversary, model = ADVERSARIES["slot"].adversary(), tiny()

    def last_loss(adversary, state=None):
        model = tiny()
        with adversary.attach(model):
            if state is not None:
                adversary.load_state_dict(state)
            return walk(model, adversary, stream[-1:])

    with adversary.attach(model):
        walk(model, adversary, stream[:2])
        state = copy.deepcopy(adversary.state_dict())
    fresh = last_loss(ADVERSARIES["slot"].adversary())
    assert last_loss(adversary) == fresh
    assert last_loss(adversary, state) != fresh


@pytest.mark.parametrize("memory", ["slot", "example"])
def test_a_state_goes_on_where_its_site_is_found(memory):
    """Not where the network's first parameter is; the device without data stands in for it."""

    def begun():
        return LayerwiseAdversary(0.1, ["input"], memory, relative=False)

    def step(adversary, device):
        adversary.set_batch(torch.arange(4))
        model(torch.zeros(4, 3, device=device)).sum().backward()
        (call,) = adversary.state_dict()["sites"]["input"]["calls"]
        return call["memory"]["resets"]

    model, first, second = nn.Sequential(nn.Identity()), begun(), begun()
    with first.attach(model):
        step(first, "cpu")
        state = copy.deepcopy(first.state_dict())
    with second.attach(model):
        second.load_state_dict(state)
        assert step(second, "meta") == 0
        assert step(second, "cpu") == 1


def test_a_state_with_random_numbers_of_an_absent_device():
    """A network trained on a GPU goes on without one, with the numbers that there are."""
    adversary = LayerwiseAdversary(0.1, ["input"], direction="random")
    model = nn.Sequential(nn.Linear(3, 2))
    with adversary.attach(model):
        model(torch.randn(4, 3))
        state = adversary.state_dict()
        state["generators"]["cuda:99"] = state["generators"]["cpu"]
        adversary.load_state_dict(state)
        assert set(adversary.state_dict()["generators"]) == {"cpu"}


@pytest.mark.parametrize("other", [{"memory": "example"}, {"direction": "l2"}, {"step_size": 0.01}])
def test_a_state_of_another_kind_is_refused(other):
    theirs = LayerwiseAdversary(0.1, ["stage.0"], **other)
    with pytest.raises(StateError, match="use the settings"):
        LayerwiseAdversary(0.1, ["stage.0"]).load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("attached_first", [False, True])
def test_a_state_of_other_sites_is_refused(attached_first):
    theirs, mine = LayerwiseAdversary(0.1, ["stage.0"]), LayerwiseAdversary(0.1, ["stage.1"])
    theirs.attach(tiny()).detach()
    model, state = tiny(), theirs.state_dict()
    if attached_first:
        with mine.attach(model), pytest.raises(StateError, match=r"stage\.0.*stage\.1"):
            mine.load_state_dict(state)
    else:
        mine.load_state_dict(state)
        with pytest.raises(StateError, match=r"stage\.0.*stage\.1"):
            mine.attach(model)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("step", [{}, -1, torch.empty(0)])
def test_a_step_that_is_no_number_is_refused(step):
    state = LayerwiseAdversary(0.1).state_dict()
    with pytest.raises(StateError, match="step"):
        LayerwiseAdversary(0.1).load_state_dict({**state, "step": step})
