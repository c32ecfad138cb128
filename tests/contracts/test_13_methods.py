"""Every method of the table: precisions, loss scaling, accuracy, second networks, refusals."""

import copy
from dataclasses import replace

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from settings import CARRYING, HOOKED, LAST, SETTINGS, STEPS, identical, sgd, tiny, train, weights
from torch import nn

from advreg.errors import AttachmentError, ConfigurationError
from advreg.methods import CutMix, Mixup

every = pytest.mark.parametrize("name", STEPS)


def trained(name, stream, *, model=None, between=None, autocast=False, scale=1.0):
    """The losses, weights and the method's state after steps over mini-batches.

    `between` is called with the network and the mini-batch before each step.
    """
    setting, model = SETTINGS[name], model or tiny()
    method, optimizer, losses = setting.method(), sgd(model), []

    def unscale(*_):
        for parameter in model.parameters():
            parameter.grad.div_(scale)

    optimizer.register_step_pre_hook(unscale)
    torch.manual_seed(0)
    with method.attach(model, steps_per_epoch=4):
        for batch in stream:
            if between:
                between(model, batch)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                losses += train(
                    model,
                    method,
                    [batch],
                    optimizer=optimizer,
                    backward=lambda loss: (scale * loss).backward(),
                )
        return [torch.stack(losses), weights(model), copy.deepcopy(method.state_dict())]


def finite(outcome):
    return all(value.isfinite().all() for value in [outcome[0], *outcome[1].values()])


@every
def test_bf16_autocast_follows_float32(name):
    plain = trained(name, SETTINGS[name].batches(6))
    lowered = trained(name, SETTINGS[name].batches(6), autocast=True)
    assert finite(lowered)
    assert not lowered[0].equal(plain[0])
    assert torch.allclose(lowered[0].float(), plain[0], rtol=0.05)


def test_the_tiny_probe_of_vat_runs_in_float32_under_autocast():
    """In bfloat16 it would change the answer by less than rounding does."""
    setting, model = SETTINGS["vat"], tiny()
    method, seen = setting.method(), []
    model.stem.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with method.attach(model), torch.autocast("cpu", torch.bfloat16):
        train(model, method, setting.batches(1))
    # The clean pass, its answer again, the probe, the pass that smooths.
    assert seen == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]


@every
def test_a_scaled_loss_and_an_unscaled_gradient_give_the_same_weights(name):
    ends = []
    for scale in (1.0, 2.0**10):
        stream = SETTINGS[name].batches(4, dtype=torch.float64)
        ends.append(trained(name, stream, model=tiny(dtype=torch.float64), scale=scale))
    assert torch.allclose(ends[0][0], ends[1][0], rtol=1e-10)
    for key, value in ends[0][1].items():
        assert torch.allclose(value, ends[1][1][key], rtol=1e-10), key


@pytest.mark.parametrize("name", [*HOOKED, "layerwise-example"])
def test_a_pass_without_gradients_changes_no_bit_of_the_training(name):
    """In training mode too, where dropout alone draws, from PyTorch's stream."""

    def passes(model, batch):
        for context in (torch.no_grad, torch.inference_mode):
            with context(), torch.random.fork_rng():
                model(batch.inputs)

    stream = list(SETTINGS[name].batches(5))
    plain = trained(name, stream, model=tiny(norm=False))
    assert identical(plain, trained(name, stream, model=tiny(norm=False), between=passes))


class Wrapper(nn.Module):
    """What a loop puts around a network; notes what it was called with and returned."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, []

    def forward(self, inputs):
        outputs = self.network(inputs)
        self.calls.append((inputs.detach().clone(), outputs.detach().clone()))
        return outputs


def mixing_of(name, draws, batch):
    """The share of the first image's label, and which image is the second; None without one."""
    if "mixup" in name:
        return draws["mixup"].draw(len(batch))
    if "cutmix" in name:
        box, order = draws["cutmix"].draw(len(batch), 6, 6)
        return box and (1 - (box[0].stop - box[0].start) * (box[1].stop - box[1].start) / 36, order)
    return None


def recount(batch, inputs, outputs, mixing):
    """The number of right answers, one example after the other."""
    right = 0.0
    for i, predicted in enumerate(outputs.argmax(1).tolist()):
        same = (batch.inputs == inputs[i]).flatten(1).all(1).nonzero().flatten().tolist()
        target = int(batch.targets[same[0] if same else i])  # the batch may be in another order
        if mixing is None:
            right += predicted == target
        else:
            share, order = mixing
            right += share * (predicted == int(batch.targets[i]))
            right += (1 - share) * (predicted == int(batch.targets[order[i]]))
    return right


@pytest.mark.parametrize("name", [*STEPS, "input-gradient-uniform"])
def test_right_answers_are_those_of_the_outputs_that_were_trained_on(name):
    """FGSM's and LOTS', say, are the attacked ones; where a penalty's are others, the clean ones.

    Of soft targets it is the probability of the predicted class that counts.
    """
    setting, model = SETTINGS[name], tiny()
    method, counts = setting.method(), []
    draws = {"mixup": Mixup(), "cutmix": CutMix(probability=0.6)}
    optimizer = sgd(model)
    *stream, last = setting.batches(6)
    with method.attach(model, steps_per_epoch=4):
        for batch in stream:
            wrapper = Wrapper(model)
            output = method.step(wrapper, batch, F.cross_entropy, torch.Tensor.backward)
            optimizer.step()
            optimizer.zero_grad()
            inputs, outputs = wrapper.calls[-1 if name in LAST else 0]
            mixing = mixing_of(name, draws, batch)
            assert output.outputs.equal(outputs)
            assert output.hard_labels == (mixing is None)
            counts.append(recount(batch, inputs, outputs, mixing))
            assert output.correct().item() == pytest.approx(counts[-1], abs=1e-5)
            assert not output.loss.requires_grad
            assert not output.outputs.requires_grad
        assert 0 < sum(counts) < 5 * 8
        if name != "layerwise-paired":  # pairing needs classes
            soft = torch.full((8, 3), 0.1).scatter(1, last.targets[:, None], 0.8)
            last = replace(last, targets=soft)
            output = method.step(model, last, F.cross_entropy, torch.Tensor.backward)
            assert not output.hard_labels
            shares = output.targets.gather(1, output.outputs.argmax(1, keepdim=True))
            assert output.correct().item() == pytest.approx(shares.sum().item())
            assert torch.allclose(output.targets.sum(1), torch.ones(8))


@pytest.mark.parametrize("name", CARRYING)
def test_a_second_network_begins_with_nothing_carried_over(name):
    """As folds of a cross-validation do with one method object."""
    setting = SETTINGS[name]

    def ends(method, model):
        torch.manual_seed(0)
        with method.attach(model, steps_per_epoch=4, examples=24):
            losses = train(model, method, setting.batches(4))
        return [losses, weights(model), copy.deepcopy(method.state_dict())]

    method = setting.method()
    first = ends(method, tiny(seed=0))
    second = ends(method, tiny(seed=1))
    assert identical(second, ends(setting.method(), tiny(seed=1)))
    method.load_state_dict(first[2])  # a state that was loaded is used, once
    assert not identical(ends(method, tiny(seed=1)), second)
    assert identical(ends(method, tiny(seed=1)), second)


@every
def test_an_exception_leaves_no_hook_and_no_flag(name):
    setting, model = SETTINGS[name], tiny()
    method = setting.method()
    flags = [module.training for module in model.modules()]

    class Stop(Exception):
        pass

    def stops(at, function):
        calls = iter(range(at + 1))

        def call(*args):
            if next(calls) == at:
                raise Stop
            return function(*args)

        return call

    (batch,) = setting.batches(1)
    for at in (0, 1):
        for which in ("criterion", "backward", "network"):
            handed = {"criterion": F.cross_entropy, "backward": torch.Tensor.backward}
            called = model
            if which == "network":
                called = stops(at, model)
            else:
                handed[which] = stops(at, handed[which])
            try:
                with method.attach(model, steps_per_epoch=4):
                    method.step(called, batch, **handed)
                    assert at
                    raise Stop
            except Stop:
                pass
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
            assert [module.training for module in model.modules()] == flags
            norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
            assert all(norm.track_running_stats for norm in norms)
            model.zero_grad()


@every
def test_what_a_step_leaves_and_refuses(name):
    """Gradients come from the handed backward alone; each step is within the range and attached."""
    setting, model = SETTINGS[name], tiny()
    model.input_range = (0.0, 1.0)
    method, batch = setting.method(), next(setting.batches(1))

    def backward(loss):  # finds no gradient and leaves none, so that an attack's would show
        assert all(parameter.grad is None for parameter in model.parameters())
        loss.backward()
        assert any(parameter.grad is not None for parameter in model.parameters())
        model.zero_grad()

    attached = method.attach(model, steps_per_epoch=4)
    outside = batch.with_inputs(2 * batch.inputs - 1)
    missing = batch.with_inputs(torch.full_like(batch.inputs, float("nan")))
    for bad, message in ((outside, "outside the range from 0 to 1"), (missing, "nan")):
        with pytest.raises(ConfigurationError, match=message):
            method.step(model, bad, F.cross_entropy, backward)
    for good in setting.batches(3):
        method.step(model, good, F.cross_entropy, backward)
        assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(AttachmentError, match=r"attached already; detach it first\.$"):
        method.attach(tiny(), steps_per_epoch=4)
    assert method.network is model
    attached.detach()
    attached.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(AttachmentError, match=r"not attached; use method\.attach\(model\)\.$"):
        method.step(model, batch, F.cross_entropy, backward)


@pytest.fixture
def unguarded():
    """Compiled code that does not notice hooks, as torch has it by default."""
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        yield


@pytest.mark.usefixtures("fresh_compiler", "unguarded")
@pytest.mark.parametrize(
    "name", ["slat", *(pytest.param(name, marks=pytest.mark.full) for name in ("dropout", "lots"))]
)
def test_a_network_that_was_compiled_before_attaching_trains_the_same(name):
    """Its code knows nothing of hooks; and it is not compiled again in each step."""
    setting, ends, compilations = SETTINGS[name], [], []

    def backend(graph, examples):
        compilations.append(graph)
        return graph

    for compiled in (True, False):
        model = tiny()
        called = torch.compile(model, backend=backend) if compiled else model
        (first, *stream) = setting.batches(5)
        called(first.inputs).sum().backward()
        model.zero_grad()
        method, optimizer, losses, done = setting.method(), sgd(model), [], []
        torch.manual_seed(0)
        with method.attach(called, steps_per_epoch=4):
            for batch in stream:
                output = method.step(called, batch, F.cross_entropy, torch.Tensor.backward)
                losses.append(output.loss)
                optimizer.step()
                optimizer.zero_grad()
                done.append(len(compilations))
        if compiled:
            assert 1 < done[1] == done[-1]
        ends.append(torch.stack(losses))
    torch.testing.assert_close(*ends)
    plain, model = SETTINGS["standard"].method(), tiny()
    with plain.attach(model):
        assert not torch.allclose(train(model, plain, stream)[1:], ends[0][1:], rtol=1e-6)
