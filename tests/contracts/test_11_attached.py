"""Semantic 11: what the input is, networks that call themselves, export, detaching, settings."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import advreg
from advreg import LayerwiseAdversary, LayerwiseConfig
from advreg.errors import ConfigurationError, NeverTrainingWarning, SiteError, UnsupportedError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def step(model, inputs=None):
    inputs = torch.ones(5, 4) if inputs is None else inputs
    loss = model(inputs).square().sum()
    loss.backward()
    return loss.detach()


def moved(model, adversary, call):
    """How far the second of two training steps' inputs to the first layer were moved."""
    seen = []
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    with adversary.attach(model):
        for _ in range(2):
            call(model)
    return (seen[1] - seen[0]).abs().max().item()


class Masked(nn.Module):
    """Takes tokens and a floating-point mask, as text models do."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)
        self.masks = []

    def forward(self, tokens, mask):
        self.masks.append(mask.detach().clone())
        return self.head((self.embedding(tokens) * mask[..., None]).sum(1))


@pytest.mark.filterwarnings("ignore::advreg.errors.AdvregWarning")
def test_a_mask_is_never_the_input():
    model, mask = Masked(), torch.tensor([[1.0, 1.0, 0.0]])
    with LayerwiseAdversary(0.1).attach(model):
        for _ in range(3):
            model(torch.tensor([[1, 2, 3]]), mask).square().sum().backward()
    assert all(seen.equal(mask) for seen in model.masks)
    with (
        LayerwiseAdversary(0.1, ["input"], input_name="mask").attach(model),
        pytest.raises(SiteError, match="choose input_name from: tokens, mask"),
    ):
        LayerwiseAdversary(0.1, ["input"], input_name="masks").attach(copy.deepcopy(model))


def test_labels_are_never_the_input():
    class Regression(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.seen = nn.Linear(4, 3), []

        def forward(self, x, labels=None):
            self.seen.append((x.detach().clone(), labels))
            return F.mse_loss(self.head(x), labels)

    model, x, labels = Regression(), torch.ones(5, 4), torch.zeros(5, 3)
    with LayerwiseAdversary(0.1, ["input"]).attach(model):
        for _ in range(2):
            model(labels=labels, x=x).backward()
    (_, first), (perturbed, second) = model.seen
    assert first is second is labels
    assert torch.allclose((perturbed - x).abs(), torch.tensor(0.1))


def test_a_batch_outside_the_declared_range_is_refused():
    model = network()
    adversary = LayerwiseAdversary(0.1, ["input"], input_range=(0, 1))
    with adversary.attach(model):
        step(model, torch.rand(5, 4))
        with pytest.raises(ConfigurationError, match="outside the range from 0 to 1"):
            step(model, torch.randn(5, 4))
        step(model, torch.rand(5, 4))


class Redirected(nn.Module):
    """Calls itself in its own forward pass, as Lightning's data parallelism makes a module do."""

    def __init__(self):
        super().__init__()
        self.head, self.outer = nn.Linear(4, 3), True

    def forward(self, inputs):
        if self.outer:
            self.outer = False
            try:
                return self(inputs)
            finally:
                self.outer = True
        return self.head(inputs)


def test_a_network_that_calls_itself_is_perturbed_once():
    adversary = LayerwiseAdversary(0.1, ["input"])
    assert moved(Redirected(), adversary, step) == pytest.approx(0.1)
    assert adversary.step == 2
    assert adversary.statistics()["input"]["runs"] == 2


def test_a_training_step_in_the_place_of_forward():
    """Of a batch of several tensors the inner call says which one is the input."""
    model, adversary = network(), LayerwiseAdversary(0.1, ["input"])

    def training_step(batch, index):
        del model.forward
        return F.mse_loss(model(batch[1]), batch[0])

    def call(model):
        model.forward = training_step
        model([torch.ones(5, 3), torch.ones(5, 4)], 0).backward()

    assert moved(model, adversary, call) == pytest.approx(0.1)
    assert adversary.step == 2


def test_an_interrupted_forward_pass_does_not_end_the_perturbation():
    model, adversary = network(), LayerwiseAdversary(0.1, ["input"])
    with adversary.attach(model):
        step(model)
        handle = model[1].register_forward_hook(lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            step(model)
        handle.remove()
        for _ in range(2):
            step(model)
        assert adversary.step == 4
        assert adversary.statistics()["input"]["records"] == 3


def test_training_in_evaluation_mode_is_warned_of():
    model = network().eval()
    with LayerwiseAdversary(0.1).attach(model):
        for _ in range(9):
            step(model)
        with pytest.warns(NeverTrainingWarning, match="ran 10 times"):
            step(model)
    handle = LayerwiseAdversary(0.1).attach(model)
    step(model)
    with pytest.warns(NeverTrainingWarning, match=r"model\.train\(\)"):
        handle.detach()


def test_inference_mode_is_left_alone():
    model, adversary = network(), LayerwiseAdversary(0.1)
    with adversary.attach(model):
        step(model)
        with torch.inference_mode(), torch.enable_grad():
            model(torch.ones(5, 4))
        assert adversary.step == 1
        step(model)


@pytest.mark.full
@pytest.mark.parametrize("strict", [True, False])
def test_export_while_nothing_is_perturbed(strict):
    model, adversary = network(), LayerwiseAdversary(0.1)
    inputs = (torch.ones(5, 4),)
    shapes = ({0: torch.export.Dim("batch")},)
    with adversary.attach(model):
        step(model)
        with adversary.paused():
            exported = torch.export.export(model, inputs, strict=strict)
        model.eval()
        for dynamic in (None, shapes):
            whole = torch.export.export(model, inputs, dynamic_shapes=dynamic, strict=strict)
            assert whole.module()(*inputs).equal(model(*inputs))
        model.train()
        for dynamic in (None, shapes):
            with pytest.raises(Exception, match="paused") as caught:
                torch.export.export(model, inputs, dynamic_shapes=dynamic, strict=strict)
            assert strict or isinstance(caught.value, UnsupportedError)
    assert exported.module()(*inputs).equal(model(*inputs))


def test_detaching_without_the_handle():
    model, adversary = network(), LayerwiseAdversary(0.1)
    handle = adversary.attach(model)
    adversary.detach()
    adversary.detach()
    handle.detach()
    assert not any(module._forward_hooks for module in model.modules())
    LayerwiseAdversary(0.1).attach(model)  # lost, the handle too
    with pytest.raises(advreg.errors.AttachmentError, match=r"advreg\.detach\(model\)"):
        adversary.attach(model)
    advreg.detach(model)
    advreg.detach(model)
    assert not any(module._forward_hooks for module in model.modules())
    adversary.attach(model).detach()


def test_a_network_that_happens_to_be_called_data_parallel():
    class DataParallel(nn.Sequential):
        pass

    with LayerwiseAdversary(0.1).attach(DataParallel(nn.Linear(4, 3))):
        pass


def test_a_scale_near_the_end_of_half_precision_leaves_zeros_alone():
    model = nn.Sequential(advreg.Tap())
    gradient = torch.ones(2, 3)
    gradient[0] = 0
    for settings in ({}, {"direction": "max"}):
        adversary = LayerwiseAdversary(3e4, ["0"], relative=False, **settings)
        with adversary.attach(model):
            for _ in range(2):
                inputs = torch.ones(2, 3, dtype=torch.float16, requires_grad=True)
                output = model(inputs)
                output.backward(gradient.half())
        assert output[0].equal(torch.ones(3, dtype=torch.float16))
        assert (output[1] > 1000).all()


PROCESS = """
import sys
import torch
before = set(sys.modules)
import advreg
loaded = set(sys.modules) - before
assert "torch._dynamo" not in sys.modules, "the compiler"
assert len(loaded) < 0.2 * len(before), len(loaded)
import torch._dynamo.config as config
skipped = config.skip_nnmodule_hook_guards
model = torch.nn.Linear(4, 3)
with advreg.LayerwiseAdversary(0.1, ["input"]).attach(model):
    pass
method = advreg.methods.Dropout()
method.attach(model).detach()
assert config.skip_nnmodule_hook_guards is skipped
unfinished = advreg.methods.Free().attach(model)
"""


def test_the_process_is_left_as_it_was():
    """Nothing heavy is imported, the compiler's setting comes back, and the exit is silent."""
    code = PROCESS.replace("method =", "import advreg.methods; method =", 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


WRONG = {
    "warmup": 1.5, "seed": "a", "input_range": 5, "sites": 3, "relative": "yes", "examples": True,
    "step_size": "much", "input_name": 0, "memory": None,
}  # fmt: skip


def test_settings_of_a_wrong_type_are_a_sentence():
    for name, value in [*WRONG.items(), ("sites", [])]:
        with pytest.raises(ConfigurationError, match=name):
            LayerwiseConfig(0.1, **{name: value})


def test_a_configuration_survives_a_file():
    config = LayerwiseConfig({"input": "8/255", "**": 0.1}, ["input", "0"], input_range=(0, 1))
    assert LayerwiseConfig.from_dict(config.to_dict()) == config
    assert eval(repr(config)) == config
    with pytest.raises(ConfigurationError, match="no setting alpha"):
        LayerwiseConfig.from_dict({"epsilon": 0.1, "alpha": 1})
