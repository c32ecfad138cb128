"""Under Accelerate training is what it is in a plain loop, and checkpoints hold the adversary."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advreg import Batch, LayerwiseAdversary
from advreg.data import take_indices, with_indices
from advreg.errors import ConfigurationError, MissingExtraError, StateError
from advreg.integrations.accelerate import AcceleratedAdversary
from advreg.layerwise import adversary_of
from advreg.methods import build_method

accelerate = pytest.importorskip("accelerate")

SETTINGS = {"epsilon": 0.1, "sites": ("input", "0", "1")}


@pytest.fixture(autouse=True)
def _forget_the_precision():
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(40, 6, generator=generator)
    return TensorDataset(inputs, torch.randint(0, 3, (40,), generator=generator))


def prepared(part, dataset=None, **options):
    accelerator = accelerate.Accelerator(cpu=True, **options)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(dataset or data(), 8)
    adversary = AcceleratedAdversary(accelerator, part)
    return accelerator, adversary, *accelerator.prepare(model, optimizer, loader)


def train(accelerator, adversary, model, optimizer, loader, epochs):
    with adversary.attach(model):
        for _ in range(epochs):
            for x, y in adversary.batches(loader):
                with accelerator.accumulate(model):
                    accelerator.backward(F.cross_entropy(model(x), y))
                    optimizer.step()
                    optimizer.zero_grad()
    return accelerator.unwrap_model(model).state_dict()


def by_hand(accumulate, bf16, epochs=2):
    model, adversary = network(), LayerwiseAdversary(**SETTINGS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with adversary.attach(model):
        for _ in range(epochs):
            for number, (x, y) in enumerate(DataLoader(data(), 8)):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    outputs = model(x)
                (F.cross_entropy(outputs.float(), y) / accumulate).backward()
                if (number + 1) % accumulate == 0 or number == 4:
                    optimizer.step()
                    optimizer.zero_grad()
    return model.state_dict(), adversary.statistics()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("bf16", [False, True])
def test_it_trains_as_a_loop_does(accumulate, bf16):
    part = LayerwiseAdversary(**SETTINGS)
    precision = "bf16" if bf16 else "no"
    parts = prepared(part, gradient_accumulation_steps=accumulate, mixed_precision=precision)
    weights, statistics = by_hand(accumulate, bf16)
    assert same(train(*parts, epochs=2), weights)
    assert str(part.statistics()) == str(statistics)
    assert not same(weights, network().state_dict())
    assert adversary_of(parts[2]) is None


def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path):
    whole = train(*prepared(LayerwiseAdversary(**SETTINGS)), epochs=3)
    parts = prepared(LayerwiseAdversary(**SETTINGS))
    train(*parts, epochs=1)
    parts[0].save_state(tmp_path)
    torch.load(tmp_path / "custom_checkpoint_0.pkl", weights_only=True)
    parts = prepared(LayerwiseAdversary(**SETTINGS))
    parts[0].load_state(tmp_path)
    fresh = copy.deepcopy(parts[1].part)
    assert same(train(*parts, epochs=2), whole)
    assert fresh.state_dict()["step"] == 5
    parts = prepared(LayerwiseAdversary(**SETTINGS))
    parts[1].load_state_dict = lambda state: None
    parts[0].load_state(tmp_path)
    assert not same(train(*parts, epochs=2), whole)


def test_example_memory_is_given_its_indices_and_the_loop_sees_none():
    part = LayerwiseAdversary(0.1, memory="example", examples=40)
    train(*prepared(part, with_indices(data())), epochs=2)
    store = part.state_dict()["sites"]["input"]["calls"][0]["memory"]["stores"][0]
    assert store["visits"].tolist() == [2] * 40


def test_a_method_takes_accelerate_s_backward():
    method = build_method("atta", epsilon=0.1)
    accelerator, adversary, model, optimizer, loader = prepared(method, with_indices(data()))
    with adversary.attach(model, examples=40):
        for batch in adversary.batches(loader):
            indices = take_indices(batch)
            method.step(model, Batch(*batch, indices), F.cross_entropy, accelerator.backward)
            optimizer.step()
            optimizer.zero_grad()
    assert adversary.state_dict()["ranks"][0]["examples"]["visits"].tolist() == [1] * 40


def test_what_cannot_work_is_a_sentence(monkeypatch):
    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(ConfigurationError, match="LayerwiseAdversary or a method"):
        AcceleratedAdversary(accelerator, network())
    adversary = AcceleratedAdversary(accelerator, LayerwiseAdversary(0.1))
    for state in ({}, {"ranks": []}, {"step": 1}, {"ranks": [3]}):
        with pytest.raises(StateError, match="adversary or a method on each rank"):
            adversary.load_state_dict(state)
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r'pip install "advreg\[accelerate\]"'):
        AcceleratedAdversary(accelerator, LayerwiseAdversary(0.1))
