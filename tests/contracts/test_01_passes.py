"""Semantic 1: one forward and one backward pass a step, counted."""

from collections import Counter

import pytest
import torch
from settings import SETTINGS, tiny, train
from torch.utils._python_dispatch import TorchDispatchMode

from advreg.methods import METHODS, Standard


class Convolutions(TorchDispatchMode):
    """Counts what a pass spends its time on."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "convolution" in str(function) or "mm" in str(function):
            self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def counted(method, stream, steps_per_epoch=4):
    """Forward calls, backward calls of the head, and operations."""
    model = tiny()
    calls = Counter()
    with method.attach(model, steps_per_epoch=steps_per_epoch), Convolutions() as operations:
        model.register_forward_hook(lambda *_: calls.update(["forward"]))
        model.head.register_full_backward_hook(lambda *_: calls.update(["backward"]))
        train(model, method, stream)
    return calls, operations.counts


def test_table_has_every_method():
    assert not {setting.build for setting in SETTINGS.values()} ^ set(METHODS.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_passes_are_as_stated(name):
    method = SETTINGS[name].method()
    steps = 3
    calls, operations = counted(method, SETTINGS[name].batches(steps))
    plain, one_pass = counted(Standard(), SETTINGS[name].batches(steps))
    assert plain == {"forward": steps, "backward": steps}
    assert calls == {"forward": steps * method.passes, "backward": steps * method.passes}
    allowed = {key: count * method.passes for key, count in one_pass.items()}
    if name.startswith("layerwise"):
        assert operations == allowed
    else:  # a pass for the input's gradient alone skips the weights'
        assert all(count <= allowed[key] for key, count in operations.items())


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.startswith("layerwise")])
def test_layerwise_takes_one_pass(name):
    assert SETTINGS[name].method().passes == 1
    assert SETTINGS[name].method().replays == 1


def test_no_convolution_for_the_inputs_gradient_without_an_input_site():
    """Plain training never computes it, so it is the price of the input site alone."""

    def stem_asks(sites):
        method = SETTINGS["layerwise-slot"].build(epsilon=0.1, sites=sites)
        model = tiny()
        asked = []

        class Masks(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                if "convolution_backward" in str(function):
                    asked.append(args[-1][0])
                return function(*args, **(kwargs or {}))

        with method.attach(model), Masks():
            train(model, method, SETTINGS["layerwise-slot"].batches(1))
        return asked[-1]

    assert not stem_asks(["stage.*"])
    assert stem_asks(["input"])


def test_nothing_is_left_of_a_pass_that_failed():
    method = SETTINGS["layerwise-slot"].method()
    model = tiny()
    with pytest.raises(RuntimeError, match="size"), method.attach(model):
        model(torch.rand(2, 5, 6, 6))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
