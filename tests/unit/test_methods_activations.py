"""Reading and changing what sites hand on."""

from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn
from torch.utils.checkpoint import checkpoint

from advreg import Batch
from advreg.errors import SiteError, UnsupportedError
from advreg.methods import LOTS, SAM, SLAT, DataGrad, InputGradient
from advreg.methods.activations import SiteHooks


class Net(nn.Module):
    """Two names for one tensor, an in-place layer after a site, and a checkpoint."""

    def __init__(self, calls=1, recompute=False, full_precision=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(4, 5)
        self.stage = nn.Sequential(nn.Tanh(), nn.Linear(5, 5))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 3)
        self.calls, self.recompute, self.full_precision = calls, recompute, full_precision

    def forward(self, inputs):
        value = self.stem(inputs)
        for _ in range(self.calls):
            if self.recompute:
                value = checkpoint(self.stage, value, use_reentrant=False)
            else:
                value = self.stage(value)
        outputs = self.head(self.relu(value))
        return outputs.float() if self.full_precision else outputs


def case():
    return torch.rand(6, 4), torch.randint(0, 3, (6,))


def test_captures_values_and_gradients_and_leaves_outputs_alone():
    model, (inputs, targets) = Net(), case()
    with ExitStack() as stack:
        hooks = SiteHooks(model, ["input", "stem", "stage"], stack)
        with hooks.capturing() as seen:
            outputs = model(inputs)
        assert outputs.equal(model(inputs))  # outside of a capture it does nothing
    assert outputs.equal(model(inputs))
    assert seen.at["stem"].equal(model.stem(inputs))
    assert seen.at["stage"].equal(model.stage(model.stem(inputs)))  # though ReLU is in place
    gradients = seen.gradients(F.cross_entropy(seen.outputs, targets))
    leaf = inputs.clone().requires_grad_()
    expected = torch.autograd.grad(F.cross_entropy(model(leaf), targets), leaf)[0]
    torch.testing.assert_close(gradients["input"], expected)
    assert gradients["stage"].shape == (6, 5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_two_names_for_one_tensor_are_one_site():
    model, (inputs, _) = Net(), case()
    names = []
    with ExitStack() as stack:
        hooks = SiteHooks(model, ["stage", "stage.1"], stack)
        with hooks.changing(lambda site, t: names.append(site) or t + 1):
            moved = model(inputs)
    assert names == ["stage.1"]
    expected = model.head(model.relu(model.stage(model.stem(inputs)) + 1))
    torch.testing.assert_close(moved, expected)


def test_several_calls_are_refused():
    model, stack = Net(calls=2), ExitStack()
    with (
        pytest.raises(UnsupportedError, match="several times"),
        stack,
        SiteHooks(model, ["stage"], stack).capturing(),
    ):
        model(case()[0])
    assert not any(module._forward_hooks for module in model.modules())


def test_sites_that_did_not_run_are_named():
    model, (inputs, targets) = Net(), case()
    model.extra = nn.Tanh()
    with ExitStack() as stack, SiteHooks(model, ["extra"], stack).capturing() as seen:
        model(inputs)
    with pytest.raises(SiteError, match="None of the sites ran"):
        seen.gradients(F.cross_entropy(seen.outputs, targets))


@pytest.mark.parametrize(
    ("method", "full_precision"),
    [
        (DataGrad(exact=True), False),
        (DataGrad(norm="l2", sites=["input", "stage"]), True),
        (InputGradient(), False),
        (SLAT(sites=["stage"]), True),
        (LOTS("stage", 2), False),
        (SAM(), True),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_works_behind_fabrics_mixed_precision(method, full_precision):
    """Its wrapper refuses any gradient through what it returned but by its own backward."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model = Net(full_precision=full_precision)
    inputs, targets = case()
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), 0.1))
    with method.attach(model), fabric.autocast():
        output = method.step(wrapped, Batch(inputs, targets), F.cross_entropy, fabric.backward)
    assert output.loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
