"""Every method of the table: precisions, loss scaling, accuracy, second networks, refusals."""

import copy
from dataclasses import fields, replace

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from settings import METHODS, SETTINGS, identical, sgd, tiny, train, weights
from torch import nn

from advreg.errors import AttachmentError, ConfigurationError
from advreg.methods import CutMix, Layerwise, Mixup

every = pytest.mark.parametrize("name", METHODS)


def trained(name, stream, *, model=None, look=None, autocast=False, scale=1.0, **settings):
    """The losses, weights and the method's state after steps over mini-batches.

    `look` is called with the network and the mini-batch before each step.
    """
    setting, model = SETTINGS[name], model or tiny()
    method, optimizer, losses = setting.build(**setting.arguments | settings), sgd(model), []

    def unscale(*_):
        for parameter in model.parameters():
            parameter.grad.div_(scale)

    optimizer.register_step_pre_hook(unscale)
    torch.manual_seed(0)
    with method.attach(model, steps_per_epoch=4):
        for batch in stream:
            if look:
                look(model, batch)
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


@every
def test_a_smaller_batch_is_no_harm(name):
    setting = SETTINGS[name]
    stream = [batch for size in (1, 8, 3, 8, 1, 8) for batch in setting.batches(1, size=size)]
    assert finite(trained(name, stream))


@every
def test_weights_get_gradients_from_the_handed_backward_alone(name):
    """It finds none and leaves none, so that an attack's gradients would show."""
    setting, model = SETTINGS[name], tiny()
    method = setting.method()

    def backward(loss):
        assert all(parameter.grad is None for parameter in model.parameters())
        loss.backward()
        assert any(parameter.grad is not None for parameter in model.parameters())
        model.zero_grad()

    with method.attach(model, steps_per_epoch=4):
        for batch in setting.batches(3):
            method.step(model, batch, F.cross_entropy, backward)
            assert all(parameter.grad is None for parameter in model.parameters())


@every
def test_a_pass_without_gradients_changes_no_bit_of_the_training(name):
    """In training mode too, where dropout alone draws, from PyTorch's stream."""

    def look(model, batch):
        for context in (torch.no_grad, torch.inference_mode):
            with context(), torch.random.fork_rng():
                model(batch.inputs)

    stream = list(SETTINGS[name].batches(5))
    plain = trained(name, stream, model=tiny(norm=False))
    assert identical(plain, trained(name, stream, model=tiny(norm=False), look=look))


@every
def test_the_same_seed_gives_the_same_bits_and_leaves_pytorchs_stream(name):
    stream = list(SETTINGS[name].batches(4))
    first = trained(name, stream)
    left = torch.get_rng_state()
    assert identical(first, trained(name, stream))
    torch.manual_seed(0)
    assert left.equal(torch.get_rng_state()) or name.startswith("dropout")


def draws(setting):
    """Whether the setting has random numbers of its own."""
    seeded = "seed" in [field.name for field in fields(setting.method())]
    return seeded and (setting.build is not Layerwise or "random" in str(setting.arguments))


@pytest.mark.parametrize("name", [name for name, setting in METHODS.items() if draws(setting)])
def test_another_seed_gives_other_weights(name):
    ends = [trained(name, SETTINGS[name].batches(4), seed=seed)[1] for seed in (0, 1)]
    assert not identical(*ends)


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


@every
def test_right_answers_are_those_of_the_outputs_that_were_trained_on(name):
    """FGSM's and LOTS' are the attacked ones; where a penalty's are others, the clean ones."""
    setting, model = SETTINGS[name], tiny()
    method, counts = setting.method(), []
    draws = {"mixup": Mixup(), "cutmix": CutMix(probability=0.6)}
    optimizer = sgd(model)
    with method.attach(model, steps_per_epoch=4):
        for batch in setting.batches(6):
            wrapper = Wrapper(model)
            output = method.step(wrapper, batch, F.cross_entropy, torch.Tensor.backward)
            optimizer.step()
            optimizer.zero_grad()
            inputs, outputs = wrapper.calls[-1 if name in ("fgsm", "lots") else 0]
            mixing = mixing_of(name, draws, batch)
            assert output.outputs.equal(outputs)
            assert output.hard_labels == (mixing is None)
            counts.append(recount(batch, inputs, outputs, mixing))
            assert output.correct().item() == pytest.approx(counts[-1], abs=1e-5)
            assert not output.loss.requires_grad
            assert not output.outputs.requires_grad
    assert 0 < sum(counts) < 6 * 8


@every
def test_soft_targets_count_as_the_probability_of_the_predicted_class(name):
    if "paired" in name:
        pytest.skip("pairing needs classes")
    setting, model = SETTINGS[name], tiny()
    method = setting.method()
    (batch,) = setting.batches(1)
    soft = torch.full((8, 3), 0.1).scatter(1, batch.targets[:, None], 0.8)
    batch = replace(batch, targets=soft)
    with method.attach(model, steps_per_epoch=4):
        output = method.step(model, batch, F.cross_entropy, torch.Tensor.backward)
    assert not output.hard_labels
    shares = output.targets.gather(1, output.outputs.argmax(1, keepdim=True))
    assert output.correct().item() == pytest.approx(shares.sum().item())
    assert torch.allclose(output.targets.sum(1), torch.ones(8))


@every
def test_a_second_network_begins_afresh(name):
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
    method.load_state_dict(first[2])
    if first[2]:  # a state that was loaded is used, once
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
def test_attaching_twice_and_stepping_detached_are_refused(name):
    setting, model = SETTINGS[name], tiny()
    method = setting.method()
    attached = method.attach(model, steps_per_epoch=4)
    with pytest.raises(AttachmentError, match=r"attached already; detach it first\.$"):
        method.attach(tiny(), steps_per_epoch=4)
    assert method.network is model
    attached.detach()
    attached.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(AttachmentError, match=r"not attached; use method\.attach\(model\)\.$"):
        method.step(model, next(setting.batches(1)), F.cross_entropy, torch.Tensor.backward)


@every
def test_inputs_outside_the_range_are_refused(name):
    setting, model = SETTINGS[name], tiny()
    model.input_range = (0.0, 1.0)
    method = setting.method()
    (batch,) = setting.batches(1)
    outside = batch.with_inputs(2 * batch.inputs - 1)
    missing = batch.with_inputs(batch.inputs.clone().fill_(float("nan")))
    with method.attach(model, steps_per_epoch=4):
        for bad, message in ((outside, "outside the range from 0 to 1"), (missing, "nan")):
            with pytest.raises(ConfigurationError, match=message):
                method.step(model, bad, F.cross_entropy, torch.Tensor.backward)
        assert all(parameter.grad is None for parameter in model.parameters())
        method.step(model, batch, F.cross_entropy, torch.Tensor.backward)


@pytest.fixture
def unguarded():
    """Compiled code that does not notice hooks, as torch has it by default."""
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
        yield


@pytest.mark.usefixtures("fresh_compiler", "unguarded")
@pytest.mark.parametrize(
    "name", ["slat", *(pytest.param(name, marks=pytest.mark.full) for name in ("dropout", "lots"))]
)
def test_a_network_that_was_compiled_before_attaching_trains_alike(name):
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
