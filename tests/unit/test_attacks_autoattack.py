"""The adapters to AutoAttack: what they find, refuse and leave alone."""

import logging
import sys

import pytest
import torch
from torch import nn

from advreg.attacks import L2, Linf, autoattack, correct, pgd, square
from advreg.errors import ConfigurationError, MissingExtraError


def network(classes=5):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes)
    ).eval()


def examples(model, count=12):
    inputs = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    return inputs, model(inputs).argmax(1)


@pytest.fixture
def _package():
    pytest.importorskip("pyautoattack", reason="pip install 'advreg[attacks]'")


@pytest.mark.full
@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.4)], ids=repr)
def test_autoattack_is_at_least_as_strong_as_pgd_and_in_the_ball(threat):
    model = network()
    inputs, targets = examples(model, 6)
    attacked = autoattack(model, inputs, targets, threat, seed=3)
    stood = correct(model(attacked), targets)
    assert stood.sum() <= correct(model(pgd(model, inputs, targets, threat, 10)), targets).sum()
    assert 0 < stood.sum() < len(stood)
    order = float("inf") if isinstance(threat, Linf) else 2
    assert ((attacked - inputs).flatten(1).norm(p=order, dim=1) <= threat.epsilon + 1e-5).all()
    assert attacked[stood].equal(inputs[stood])
    assert attacked.min() >= 0
    assert attacked.max() <= 1


@pytest.mark.usefixtures("_package")
def test_some_of_its_parts_alone():
    model = network()
    inputs, targets = examples(model, 4)
    attacked = autoattack(model, inputs, targets, Linf(0.05), attacks=["apgd-ce"], seed=3)
    stood = correct(model(attacked), targets)
    assert 0 < stood.sum() < len(stood)
    for wrong in ([], ["apgd"]):
        with pytest.raises(ConfigurationError, match="give some of apgd-ce, apgd-t"):
            autoattack(model, inputs, targets, Linf(0.05), attacks=wrong)


@pytest.mark.usefixtures("_package")
def test_square_asks_as_often_as_it_may_and_follows_the_seed():
    model = network()
    inputs, targets = examples(model)
    asked = []
    model.register_forward_hook(lambda *_: asked.append(torch.is_grad_enabled()))
    first, again, other = (
        square(model, inputs, targets, Linf(0.05), queries=30, seed=seed) for seed in (1, 1, 2)
    )
    assert first.equal(again)
    assert not first.equal(other)
    assert not any(asked)
    assert len(asked) < 3 * 50
    few = square(model, inputs, targets, Linf(0.05), queries=1, seed=1)
    assert correct(model(few), targets).sum() > correct(model(first), targets).sum()


@pytest.mark.usefixtures("_package")
def test_everything_is_left_as_it_was(monkeypatch):
    model = network()
    model[0].weight.requires_grad = False
    inputs, targets = examples(model)
    before, state = inputs.clone(), torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    monkeypatch.setattr(logging.getLogger("auto-attack"), "level", logging.DEBUG)
    trace = sys.gettrace()
    sys.settrace(tracer := lambda *_: None)
    try:
        square(model, inputs, targets, Linf(0.03), queries=20)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(trace)
    assert logging.getLogger("auto-attack").level == logging.DEBUG
    assert torch.get_rng_state().equal(state)
    assert inputs.equal(before)
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())


@pytest.mark.full
@pytest.mark.usefixtures("_package")
def test_a_network_that_cuts_the_gradient_is_attacked_all_the_same():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network()

        def forward(self, x):
            return self.model(x.detach())

    model = Cut().eval()
    inputs, targets = examples(model, 4)
    attacked = autoattack(model, inputs, targets, Linf(0.5))
    assert not correct(model(attacked), targets).all()


@pytest.mark.usefixtures("_package")
def test_what_cannot_work_is_refused_with_the_mend():
    model = network()
    inputs, _ = examples(model)
    for change, message in (
        ({"model": network().train()}, "model.eval"),
        ({"model": nn.Sequential(network(), nn.Softmax(1)).eval()}, "returns probabilities"),
        ({"model": network(3)}, "at least 4 classes"),
        ({"threat": Linf(8)}, "8/255 instead of 8"),
        ({"inputs": torch.full((12, 1, 8, 8), 2.0)}, "run from 2 to 2"),
        ({"threat": type("L1", (Linf,), {})(0.1)}, "knows no L1"),
    ):
        given = {"model": model, "inputs": inputs, "threat": Linf(0.1), **change}
        with pytest.raises(ConfigurationError, match=message):
            autoattack(targets=torch.zeros(12).long(), **given)


def test_without_the_package_one_sentence_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    model = network()
    for attack in (autoattack, square):
        with pytest.raises(MissingExtraError, match=r"42 MB.* pip install \"advreg\[attacks\]\""):
            attack(model, *examples(model), Linf(0.1))
