"""Semantic 2: the network's state has the same keys; restored states go on bit for bit."""

import copy
import io
import itertools

import pytest
import torch
from settings import ADVERSARIES, SETTINGS, identical, sgd, tiny, train, walk, weights
from torch import nn

from advreg import LayerwiseAdversary
from advreg.errors import StateError


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


def test_a_state_with_random_numbers_of_an_absent_device(monkeypatch):
    """A network trained on a GPU goes on without one, with the numbers that there are."""
    adversary = LayerwiseAdversary(0.1, ["input"], direction="random")
    model = nn.Sequential(nn.Linear(3, 2))
    with adversary.attach(model):
        model(torch.randn(4, 3))
        state = adversary.state_dict()
        state["generators"]["cuda:99"] = state["generators"]["cpu"]
        adversary.load_state_dict(state)
        assert set(adversary.state_dict()["generators"]) == {"cpu"}


@pytest.mark.parametrize("name", SETTINGS)
def test_same_keys_attached_and_detached(name):
    model, method = tiny(), SETTINGS[name].method()
    before = names(model)
    with method.attach(model, steps_per_epoch=4):
        assert names(model) == before
        train(model, method, SETTINGS[name].batches(2))
        assert names(model) == before
    assert names(model) == before


@pytest.mark.parametrize("attached_first", [False, True], ids=["load-attach", "attach-load"])
@pytest.mark.parametrize("name", SETTINGS)
def test_restored_training_goes_on_bit_for_bit(name, attached_first):
    setting = SETTINGS[name]
    stream = list(setting.batches(9))
    model, method = tiny(), setting.method()
    optimizer = sgd(model)
    with method.attach(model, steps_per_epoch=6):
        train(model, method, stream[:4], optimizer=optimizer)
        saved = through_a_file([model.state_dict(), optimizer.state_dict(), method.state_dict()])
        random = torch.get_rng_state()
        losses = train(model, method, stream[4:], optimizer=optimizer)
        end = method.state_dict()

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
        resumed = train(other, again, stream[4:], optimizer=optimizer)
        assert identical(again.state_dict(), end)
    assert resumed.equal(losses)
    assert identical(weights(other), weights(model))


def test_memories_matter_to_what_follows():
    """The test above could not fail if the state made no difference."""
    stream = list(ADVERSARIES["slot"].batches(3))

    def last_loss(state):
        model, adversary = tiny(), ADVERSARIES["slot"].adversary()
        with adversary.attach(model):
            if state is not None:
                adversary.load_state_dict(state)
            return walk(model, adversary, stream[-1:])

    adversary = ADVERSARIES["slot"].adversary()
    model = tiny()
    with adversary.attach(model):
        walk(model, adversary, stream[:2])
        state = copy.deepcopy(adversary.state_dict())
    assert last_loss(state) != last_loss(None)


@pytest.mark.parametrize("name", ADVERSARIES)
def test_state_outlives_detaching(name):
    model, adversary = tiny(), ADVERSARIES[name].adversary()
    with adversary.attach(model):
        walk(model, adversary, ADVERSARIES[name].batches(3))
        attached = copy.deepcopy(adversary.state_dict())
    assert identical(adversary.state_dict(), attached)


def test_state_before_attaching_is_what_was_loaded():
    model, adversary = tiny(), ADVERSARIES["slot"].adversary()
    with adversary.attach(model):
        walk(model, adversary, ADVERSARIES["slot"].batches(3))
        state = copy.deepcopy(adversary.state_dict())
    fresh = ADVERSARIES["slot"].adversary()
    fresh.load_state_dict(state)
    assert identical(fresh.state_dict(), state)


def test_loaded_state_is_not_shared():
    """Two adversaries loaded from one state go on apart, and the state stays as it was."""
    stream = list(ADVERSARIES["slot"].batches(5))
    model, adversary = tiny(), ADVERSARIES["slot"].adversary()
    with adversary.attach(model):
        walk(model, adversary, stream[:3])
    state = copy.deepcopy(adversary.state_dict())
    kept = copy.deepcopy(state)
    other = ADVERSARIES["slot"].adversary()
    other.load_state_dict(state)
    with other.attach(tiny(seed=3)) as attachment:
        walk(attachment.network, other, stream[3:])
    assert identical(state, kept)


def test_attaching_again_starts_with_fresh_memories():
    stream = list(ADVERSARIES["slot"].batches(4))
    adversary = ADVERSARIES["slot"].adversary()
    ends = []
    for _ in range(2):
        model = tiny()
        with adversary.attach(model):
            walk(model, adversary, stream)
        ends.append(weights(model))
    assert identical(*ends)


@pytest.mark.parametrize(
    "other", [{"memory": "example", "sites": ["stage.0"]}, {"direction": "l2"}, {"step_size": 0.01}]
)
def test_state_of_another_kind_is_refused(other):
    adversary = LayerwiseAdversary(0.1, ["stage.0"])
    with pytest.raises(StateError, match="use the settings"):
        adversary.load_state_dict(
            LayerwiseAdversary(**{"epsilon": 0.1, "sites": ["stage.0"]} | other).state_dict()
        )


@pytest.mark.parametrize("attached_first", [False, True])
def test_state_of_other_sites_is_refused(attached_first):
    theirs, mine = LayerwiseAdversary(0.1, ["stage.0"]), LayerwiseAdversary(0.1, ["stage.1"])
    with theirs.attach(tiny()):
        pass
    model = tiny()
    if attached_first:
        with mine.attach(model), pytest.raises(StateError, match=r"stage\.0.*stage\.1"):
            mine.load_state_dict(theirs.state_dict())
    else:
        mine.load_state_dict(theirs.state_dict())
        with pytest.raises(StateError, match=r"stage\.0.*stage\.1"):
            mine.attach(model)
    assert not any(len(module._forward_hooks) for module in model.modules())


def test_every_setting_is_saved_differently_trained():
    """Each row of the table trains to weights of its own: none is another in disguise."""
    ends = {}
    for name, setting in SETTINGS.items():
        model, method = tiny(), setting.method()
        with method.attach(model, steps_per_epoch=4):
            train(model, method, setting.batches(6))
        ends[name] = weights(model)["head.weight"]
    for left, right in itertools.combinations(ends, 2):
        assert not ends[left].equal(ends[right]), (left, right)
