"""Semantic 11: an exception anywhere inside `attach` leaves the untouched network, to the bit."""

import pytest
import torch
from settings import ADVERSARIES, identical, tiny, walk, weights
from torch.nn import functional as F

from advreg.errors import AttachmentError
from advreg.layerwise.hooks import HookHandle

PLACES = [name for name, _ in tiny().named_modules()]


class Stop(Exception):
    pass


def stop(*_):
    raise Stop


def stop_in_backward(module, inputs, output):
    output.register_hook(stop)


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [(name, k) for name, m in model.named_modules() for k in kinds if getattr(m, k)]


def outcome(model, batch):
    """Outputs, gradients and statistics of a plain step, and outputs in evaluation mode."""
    model.zero_grad()
    outputs = model.train()(batch.inputs)
    F.cross_entropy(outputs, batch.targets).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    with torch.no_grad():
        return [outputs.detach(), gradients, weights(model), model.eval()(batch.inputs)]


def assert_untouched(model, batch):
    plain = tiny()
    plain.load_state_dict(model.state_dict())
    assert not hooks(model)
    assert identical(outcome(model, batch), outcome(plain, batch))


@pytest.mark.parametrize("act", [stop, stop_in_backward], ids=["forward", "backward"])
@pytest.mark.parametrize("name", ["slot", "slot-accumulating", "example"])
def test_an_exception_at_any_module(name, act):
    setting = ADVERSARIES[name]
    for place in PLACES:
        model, adversary = tiny(), setting.adversary()
        first, second = setting.batches(2)
        with pytest.raises(Stop), adversary.attach(model):  # noqa: PT012
            walk(model, adversary, [first])
            handle = model.get_submodule(place).register_forward_hook(act)
            try:
                walk(model, adversary, [second])
            finally:
                handle.remove()
        assert_untouched(model, second)


@pytest.mark.parametrize("step", ["__init__", "guard"])
def test_attaching_that_fails_half_way(monkeypatch, step):
    setting, plain, calls = ADVERSARIES["slot"], getattr(HookHandle, step), []

    def fails(self, *given, **more):
        calls.append(0)
        if len(calls) == 3:
            raise Stop
        return plain(self, *given, **more)

    model, adversary = tiny(), setting.adversary()
    with monkeypatch.context() as patched:
        patched.setattr(HookHandle, step, fails)
        with pytest.raises(Stop):
            adversary.attach(model)
    (batch,) = setting.batches(1)
    assert_untouched(model, batch)
    with adversary.attach(model), pytest.raises(AttachmentError):
        adversary.attach(model)
    assert_untouched(model, batch)
