"""Semantic 4: a memory a call, in call order; what several or no backward passes leave."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from probes import Functional, probing
from settings import identical
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from advreg import LayerwiseAdversary
from advreg.errors import UnsupportedError

BUDGET = 0.1
checkpointed = partial(checkpoint, use_reentrant=False)


def inputs(step, size=6):
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(step))


def targets(step, size=6):
    return torch.randint(0, 3, (size,), generator=torch.Generator().manual_seed(step))


def loss_at(model, step, size=6):
    return torch.nn.functional.cross_entropy(model(inputs(step, size)), targets(step, size))


def network(**settings):
    torch.manual_seed(0)
    return Functional(**settings)


def slots(**settings):
    return LayerwiseAdversary(BUDGET, ["shared"], relative=False, **settings)


def signs(probe):
    return [gradient.sign() for gradient in probe.gradients()]


def added(probe):
    return [(delta / BUDGET).round() for delta in probe.deltas()]


def same(left, right):
    return len(left) == len(right) and all(map(torch.equal, left, right))


def test_each_call_has_its_own_memory():
    model, adversary = network(calls=3), slots()
    with probing(model, adversary, "shared") as probe:
        loss_at(model, 0).backward()
        assert not any(delta.any() for delta in probe.deltas())
        left = signs(probe)
        assert not left[0].equal(left[1])
        probe.clear()
        loss_at(model, 1).backward()
        assert same(added(probe), left)


def test_the_number_of_calls_may_change():
    model, adversary = network(calls=2), slots()
    with probing(model, adversary, "shared") as probe:
        loss_at(model, 0).backward()
        first = signs(probe)
        model.calls = 3
        probe.clear()
        loss_at(model, 1).backward()
        assert same(added(probe)[:2], first)
        assert not probe.deltas()[2].any()
        second = signs(probe)
        model.calls = 1
        probe.clear()
        loss_at(model, 2).backward()
        assert same(added(probe), second[:1])
        third = signs(probe)
        model.calls = 3
        probe.clear()
        loss_at(model, 3)
        assert same(added(probe), third + second[1:])


@pytest.mark.parametrize("failed", [False, True], ids=["", "after a failed forward pass"])
def test_parts_called_on_their_own(failed):
    """Not through the network's own call; the memories are in call order all the same."""
    model, adversary = network(calls=2), slots()
    with probing(model, adversary, "shared") as probe:
        if failed:
            with pytest.raises(RuntimeError):
                model(torch.ones(2, 9))
        model.forward(inputs(0)).square().sum().backward()
        left = signs(probe)
        probe.clear()
        model.forward(inputs(1))
        assert same(added(probe), left)


WAYS = {
    "each call": {"call": checkpointed},
    "ends after the site": {"call": lambda module, value: checkpointed(lambda v: module(v), value)},
    "goes on after the site": {
        "call": lambda module, value: checkpointed(lambda v: module(v).tanh() * 2, value)
    },
    "two calls a region": {
        "call": lambda module, value: checkpointed(lambda v: module(module(v).sin()).cos(), value)
    },
}
PLAIN = {
    "each call": {},
    "ends after the site": {},
    "goes on after the site": {"call": lambda module, value: module(value).tanh() * 2},
    "two calls a region": {"call": lambda module, value: module(module(value).sin()).cos()},
}


@pytest.mark.parametrize(
    ("way", "direction", "calls", "early"),
    [
        *[(way, "sign", 3, early) for way in WAYS for early in (True, False)],
        # What a dense memory or the random signs gave is kept, since memories are written over.
        *[("two calls a region", direction, 3, True) for direction in ("random", "l2")],
        ("goes on after the site", "l2", 1, True),
    ],
)
def test_calls_are_right_under_recomputation(way, direction, calls, early):
    """Losses, gradients and memories are those without checkpoints, step by step."""
    runs = []
    for settings in (PLAIN[way], WAYS[way]):
        model = network(calls=calls, **settings)
        adversary = LayerwiseAdversary(0.3, ["shared", "shared.0"], direction=direction)
        trace = []
        with adversary.attach(model), set_checkpoint_early_stop(early):
            for step in range(4):
                loss = loss_at(model, step, 6 - 2 * (step == 2))
                loss.backward()
                trace += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
                torch.optim.SGD(model.parameters(), 0.2).step()
                model.zero_grad()
        runs.append([trace, copy.deepcopy(adversary.state_dict())])
    assert identical(*runs)


def nested(module, value):
    return checkpointed(lambda outer: checkpointed(lambda v: module(v), outer).sin(), value)


@pytest.mark.parametrize("calls", [1, 2])
def test_nested_checkpoints_are_right_or_refused(calls):
    runs = []
    for call in (lambda module, value: module(value).sin(), nested):
        model, adversary = network(calls=calls, call=call), slots()
        trace = []
        with adversary.attach(model):
            for step in range(3):
                loss = loss_at(model, step)
                try:
                    loss.backward()
                except UnsupportedError as error:
                    assert calls > 1
                    assert "shared" in str(error)  # noqa: PT017
                    return
                trace += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
        runs.append(trace)
    assert identical(*runs)


@pytest.mark.parametrize(
    ("way", "direction"),
    [
        ("goes on after the site", "sign"),
        ("goes on after the site", "l2"),  # kept apart from the memory that is written over
        ("two calls a region", "random"),
    ],
)
def test_two_forward_passes_before_one_backward_under_recomputation(way, direction):
    """The recomputed forward pass of the first sees what the first one saw, sizes included."""
    runs = []
    for settings in (PLAIN[way], WAYS[way]):
        model = network(calls=1, **settings)
        adversary = LayerwiseAdversary(0.3, ["shared"], direction=direction)
        with adversary.attach(model):
            loss_at(model, 0).backward()
            model.zero_grad()
            (loss_at(model, 1, 6) + loss_at(model, 2, 3)).backward()
        runs.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("paused", ["forward", "backward", "one of two"])
def test_pausing_between_a_forward_pass_and_its_recomputation(paused):
    """Whether a region was perturbed is settled by its first forward pass."""
    runs = []
    for settings in (PLAIN["goes on after the site"], WAYS["goes on after the site"]):
        model, adversary = network(calls=1, **settings), slots()
        with adversary.attach(model):
            loss_at(model, 0).backward()
            model.zero_grad()
            loss = 0 if paused == "forward" else loss_at(model, 1)
            if paused != "backward":
                with adversary.paused():
                    loss = loss + loss_at(model, 2)
            with adversary.paused() if paused == "backward" else nullcontext():
                loss.backward()
        runs.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("call", [PLAIN["each call"], WAYS["each call"]], ids=["plain", "region"])
def test_the_last_of_several_backward_passes_is_kept(call):
    model, adversary = network(calls=2, **call), slots()
    with probing(model, adversary, "shared") as probe:
        output = model(inputs(0))
        output[:, 0].sum().backward(retain_graph=True)
        first = signs(probe)
        for tensor in probe.perturbed:
            tensor.grad = None
        output[:, 1].sum().backward()
        second = signs(probe)
        assert not same(first, second)
        probe.clear()
        model(inputs(1))
        assert same(added(probe), second)


def test_the_last_of_several_backward_passes_is_kept_when_accumulating():
    """One forward pass moves the perturbation once."""
    model, adversary = network(calls=1), slots(step_size=BUDGET / 4)
    with probing(model, adversary, "shared") as probe:
        output = model(inputs(0))
        output[:, 0].sum().backward(retain_graph=True)
        probe.perturbed[0].grad = None
        output[:, 1].sum().backward()
        last = signs(probe)[0]
        probe.clear()
        model(inputs(1))
        assert torch.allclose(probe.deltas()[0], BUDGET / 4 * last, atol=BUDGET / 100)


@pytest.mark.parametrize("settings", [{}, {"direction": "l2"}, {"step_size": 0.02}], ids=str)
def test_a_forward_without_a_backward_leaves_the_memory(settings):
    model, adversary = network(), slots(**settings)
    with probing(model, adversary, "shared") as probe:
        loss_at(model, 0).backward()
        probe.clear()
        loss_at(model, 1)
        once = probe.deltas()
        probe.clear()
        loss_at(model, 2)
        twice = probe.deltas()
    assert once[0].any()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("penalty_backward", [True, False])
def test_the_first_order_pass_records_under_create_graph(penalty_backward):
    """As a gradient penalty does: the pass through the gradient's own graph leaves no trace."""
    model, adversary = network(calls=2), slots()
    parameters = list(model.parameters())
    with probing(model, adversary, "shared") as probe:
        loss = loss_at(model, 0)
        gradients = torch.autograd.grad(loss, [*probe.perturbed, *parameters], create_graph=True)
        first = [gradient.detach().sign() for gradient in gradients[:2]]
        if penalty_backward:
            penalty = sum(gradient.square().sum() for gradient in gradients[2:])
            (loss + penalty).backward()
            assert not same(first, signs(probe))
        probe.clear()
        loss_at(model, 1)
        assert same(added(probe), first)


@pytest.mark.filterwarnings("ignore::advreg.errors.AdvregWarning")
def test_gradients_pass_through_the_site_unchanged_to_second_order():
    model = network(calls=2).double()
    # No budget: memories that change between the evaluations would be another function each.
    adversary = LayerwiseAdversary(0.0, ["input", "shared"], relative=False)
    values = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    with adversary.attach(model):
        assert torch.autograd.gradcheck(model, values)
        assert torch.autograd.gradgradcheck(model, values)
