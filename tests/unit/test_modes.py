"""A network is left as it was found."""

import pytest
import torch
from torch import nn

from advreg.modes import evaluating, frozen_statistics


def network():
    """A network in training mode with a part in evaluation mode, as fine-tuning leaves it."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 1),
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.InstanceNorm2d(3, track_running_stats=True, momentum=None),
        nn.Sequential(nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)),
        nn.Dropout(0.5),
    )
    model(torch.randn(5, 2, 4, 4))
    model[6].eval()
    return model


def flags(model):
    return [
        (module.training, getattr(module, "track_running_stats", None))
        for module in model.modules()
    ]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


MODES = [evaluating, frozen_statistics]


@pytest.mark.parametrize("mode", MODES)
def test_everything_is_as_before(mode):
    model = nn.Sequential(network(), nn.Linear(99, 1))
    before, modes, buffers = state(model), flags(model), [id(b) for b in model.buffers()]
    with mode(model), mode(model):
        model[0](torch.randn(5, 2, 4, 4))
        if mode is evaluating:
            assert not any(module.training for module in model.modules())
    with pytest.raises(RuntimeError, match="shapes"), mode(model):
        model(torch.randn(5, 2, 4, 4))
    assert flags(model) == modes
    assert same(state(model), before)
    assert [id(buffer) for buffer in model.buffers()] == buffers


def test_evaluating_calls_no_train_or_eval_of_the_network():
    class Merging(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("called")

    model = Merging(2, 2)
    with evaluating(model):
        assert not model.training
    assert model.training


def test_evaluating_reaches_into_a_compiled_network():
    model = network()
    compiled = torch.compile(model, backend="eager")
    with evaluating(compiled):
        assert not model[7].training
    assert compiled.training
    assert model[7].training
    assert not model[6].training


def test_frozen_statistics_change_no_output():
    model, inputs = network()[:-1], torch.randn(5, 2, 4, 4)
    with frozen_statistics(model):
        frozen = model(inputs)
    assert frozen.equal(model(inputs))


def test_frozen_statistics_let_evaluation_mode_read_them():
    model, inputs = network(), torch.randn(5, 2, 4, 4)
    with evaluating(model):
        deployed = model(inputs)
        with frozen_statistics(model):
            assert model(inputs).equal(deployed)


def test_statistics_stay_until_the_outermost_is_left_and_move_again_afterwards():
    model = network()
    before = state(model)
    with frozen_statistics(model):
        with frozen_statistics(model):
            pass
        model(torch.randn(5, 2, 4, 4))
    assert same(state(model), before)
    model(torch.randn(5, 2, 4, 4))
    moved = {name for name, value in state(model).items() if not value.equal(before[name])}
    assert {name for name in moved if name.endswith("running_mean")} == {
        "1.running_mean",
        "2.running_mean",
        "4.running_mean",
    }


def test_a_gradient_flows_through_frozen_statistics_afterwards():
    model, inputs = network()[:-1], torch.randn(5, 2, 4, 4)
    with frozen_statistics(model):
        model(inputs).square().sum().backward()
    frozen = model[0].weight.grad.clone()
    model.zero_grad()
    model(inputs).square().sum().backward()
    assert frozen.equal(model[0].weight.grad)
