"""Semantic 1: one forward and one backward pass a step, counted."""

import itertools
from collections import Counter

import pytest
from settings import METHODS, SETTINGS, STEPS, tiny, train, weights
from torch.utils._python_dispatch import TorchDispatchMode

from advreg import methods
from advreg.methods import Composed, Standard


class Convolutions(TorchDispatchMode):
    """Counts what a pass spends its time on, by operation and in products."""

    def __init__(self):
        super().__init__()
        self.counts, self.products = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "convolution" in str(function) or "mm" in str(function):
            self.counts[str(function)] += 1
            backward = "convolution_backward" in str(function)  # of the input, of the weights
            self.products += sum(args[-1][:2]) if backward else 1
        return function(*args, **(kwargs or {}))


def counted(method, stream, steps_per_epoch=4):
    """Forward calls, backward calls of the head, and what they spent."""
    model = tiny()
    calls = Counter()
    with method.attach(model, steps_per_epoch=steps_per_epoch), Convolutions() as operations:
        model.register_forward_hook(lambda *_: calls.update(["forward"]))
        model.head.register_full_backward_hook(lambda *_: calls.update(["backward"]))
        train(model, method, stream)
    return calls, operations


def test_table_has_every_method():
    for names in (SETTINGS, STEPS):
        there = {type(SETTINGS[name].method()) for name in names}
        assert not there ^ {*methods.METHODS.values(), Composed}


@pytest.mark.full
def test_each_setting_of_the_table_trains_to_weights_of_its_own():
    ends = {}
    for name, setting in SETTINGS.items():
        model, method = tiny(), setting.method()
        with method.attach(model, steps_per_epoch=4):
            train(model, method, setting.batches(4))
        ends[name] = weights(model)["head.weight"]
    for left, right in itertools.combinations(ends, 2):
        assert not ends[left].equal(ends[right]), (left, right)


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_as_stated(name):
    setting, steps = SETTINGS[name], 3
    method = setting.method()
    calls, spent = counted(method, setting.batches(steps))
    plain, one_pass = counted(Standard(), setting.batches(steps))
    assert plain == {"forward": steps, "backward": steps}
    assert calls == {
        "forward": steps * (setting.forwards or method.passes),
        "backward": steps * (setting.backwards or method.passes),
    }
    allowed = {key: count * method.passes for key, count in one_pass.counts.items()}
    if name.startswith("layerwise"):
        assert method.passes == method.replays == 1
        assert spent.counts == allowed
    elif setting.forwards is None:  # a pass for the input's gradient alone skips the weights'
        assert all(count <= allowed[key] for key, count in spent.counts.items())
    else:  # a plain pass also skips the gradient of the stem's input
        assert spent.products <= (one_pass.products + steps) * method.passes


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
