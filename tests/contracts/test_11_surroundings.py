"""Semantic 11: foreign hooks, networks of any build, layouts and precisions."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from probes import probing
from settings import ADVERSARIES, MEMORIES, identical, tiny, walk, weights
from torch import nn

from advreg import LayerwiseAdversary, Tap

BUDGET = 0.1


def steps(model, adversary, site, inputs, loss, count=2):
    """Probed steps; returns what the last one added and what the one before left."""
    with probing(model, adversary, site) as probe:
        for step in range(count):
            if step:
                left = probe.gradients()[0].sign()
            probe.clear()
            loss(model(inputs)).backward()
        return probe.deltas()[0], left


# Hooks of others


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
def test_foreign_hooks_go_on_working(first):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    adversary = LayerwiseAdversary(BUDGET, ["0"], relative=False)
    seen, gradients = [], []

    def register():
        model[0].register_forward_hook(lambda _, args, output: output * 2)
        model[0].register_forward_hook(lambda _, args, output: seen.append(output))
        model[0].register_full_backward_hook(lambda *args: gradients.append(args[2][0]))
        model[0].weight.register_hook(lambda gradient: gradients.append(gradient))

    inputs = torch.ones(2, 4)
    plain = model[0](inputs).detach()
    if first:
        register()
    handle = adversary.attach(model)
    if not first:
        register()
    for _ in range(2):
        model(inputs).square().sum().backward()
    handle.detach()
    assert len(gradients) == 4
    if first:
        assert all(value.equal(plain * 2) for value in seen)
    else:
        assert seen[0].equal(plain * 2)
        assert torch.allclose((seen[1] - plain * 2).abs(), torch.tensor(2 * BUDGET), atol=1e-6)
    seen.clear()
    assert model[0](inputs).equal(plain * 2)
    assert len(seen) == 1


def test_forward_hooks_with_keywords_and_module_wide_hooks():
    model, adversary = tiny(), ADVERSARIES["slot"].adversary()
    calls = []
    handles = [
        nn.modules.module.register_module_forward_hook(lambda *_: calls.append("all")),
        model.stage.register_forward_hook(lambda *_: calls.append("stage"), with_kwargs=True),
        model.register_forward_pre_hook(lambda *_: calls.append("pre"), prepend=True),
    ]
    with adversary.attach(model):
        losses = walk(model, adversary, ADVERSARIES["slot"].batches(3))
    for handle in handles:
        handle.remove()
    assert calls.count("stage") == calls.count("pre") == 3
    other, again = tiny(), ADVERSARIES["slot"].adversary()
    with again.attach(other):
        assert walk(other, again, ADVERSARIES["slot"].batches(3)).equal(losses)


# Networks


@pytest.mark.parametrize("sites", [["0"], ["0", "1"]])
def test_relu_in_place(sites):
    """In place or not, the perturbed values and the gradients are the same."""
    ends = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace), nn.Linear(6, 3))
        adversary = LayerwiseAdversary(BUDGET, sites)
        with adversary.attach(model):
            for step in range(4):
                model(torch.full((5, 4), float(step))).square().sum().backward()
        ends.append([weights(model), [p.grad for p in model.parameters()], adversary.state_dict()])
    assert identical(*ends)


def test_in_place_arithmetic_right_after_a_site():
    class Adds(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.body, self.tap, self.head = nn.Linear(4, 4), Tap(), nn.Linear(4, 3)
            self.inplace = inplace

        def forward(self, inputs):
            value = self.tap(self.body(inputs))
            value = value.add_(1).relu_() if self.inplace else (value + 1).relu()
            return self.head(value)

    ends = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model, adversary = Adds(inplace), LayerwiseAdversary(BUDGET, ["tap"])
        with adversary.attach(model):
            for _ in range(3):
                model(torch.ones(5, 4)).square().sum().backward()
        ends.append([[p.grad for p in model.parameters()], adversary.state_dict()])
    assert identical(*ends)


def test_a_functional_network_with_a_tap():
    class Formula(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))
            self.tap = Tap()

        def forward(self, inputs):
            return F.linear(self.tap(torch.tanh(F.linear(inputs, self.weight))), self.weight)

    torch.manual_seed(0)
    adversary = LayerwiseAdversary(BUDGET, ["tap"], relative=False)
    added, left = steps(
        Formula(), adversary, "tap", torch.ones(5, 4), lambda out: out.square().sum()
    )
    assert left.all()
    assert torch.allclose(added, BUDGET * left, atol=1e-6)


def test_one_module_shared_in_two_places():
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 3))
    adversary = LayerwiseAdversary(BUDGET, ["0"], relative=False)
    with probing(model, adversary, "0") as probe:
        model(torch.ones(5, 4)).square().sum().backward()
        left = [gradient.sign() for gradient in probe.gradients()]
        probe.clear()
        model(torch.ones(5, 4))
        for delta, direction in zip(probe.deltas(), left, strict=True):
            assert torch.allclose(delta, BUDGET * direction, atol=1e-6)


@pytest.mark.parametrize("sites", [["input", "stem"], ["stage.*"]])
def test_a_frozen_backbone(sites):
    """Nothing before the site asks for a gradient; the site records one all the same."""
    model = tiny()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("head")
    adversary = LayerwiseAdversary(BUDGET, sites, relative=False)
    with probing(model, adversary, sites[0].replace("*", "0")) as probe:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        for batch in ADVERSARIES["slot"].batches(3):
            probe.clear()
            F.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()
        assert probe.deltas()[0].any()
        assert all(site["records"] == 3 for site in adversary.statistics().values())
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("head"))


def test_the_input_asks_for_its_own_gradient_and_leaves_the_users_alone():
    model, images = tiny(), torch.rand(4, 3, 6, 6)
    with LayerwiseAdversary(BUDGET, ["input"]).attach(model):
        model(images).sum().backward()
        assert not images.requires_grad
        assert images.grad is None
        asked = images.clone().requires_grad_()
        model(asked).sum().backward()
        assert asked.grad is not None


def test_a_clamped_inputs_own_gradient_is_the_clamps():
    model = nn.Linear(2, 1, bias=False)
    model.input_range = (0.0, 1.0)
    images = torch.tensor([[1.0, 0.5]], requires_grad=True)
    nn.init.ones_(model.weight)
    adversary = LayerwiseAdversary(BUDGET, ["input"])
    with probing(model, adversary, "input") as probe:
        for _ in range(2):
            images.grad = None
            probe.clear()
            model(images).sum().backward()
        assert probe.perturbed[0].tolist() == [[1.0, pytest.approx(0.6)]]
        assert images.grad.tolist() == [[0.0, 1.0]]
        probe.clear()
        model(images)
        # Recorded at the clamped input, so that a saturated pixel is not forgotten.
        assert model(images.detach() - 0.5).item() == pytest.approx(0.7)


# Layouts and precisions


@pytest.mark.parametrize(
    "name", ["slot", "slot-clamped", "slot-l2", "slot-accumulating", "example"]
)
def test_channels_last_changes_nothing_but_the_layout(name):
    setting = ADVERSARIES[name]
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model, adversary = tiny(dtype=torch.float64).to(memory_format=layout), setting.adversary()
        seen = []
        with adversary.attach(model):
            model.stage.register_forward_hook(lambda *args, seen=seen: seen.append(args[2]))
            stream = [
                dataclasses.replace(batch, inputs=batch.inputs.to(memory_format=layout))
                for batch in setting.batches(5, dtype=torch.float64)
            ]
            losses = walk(model, adversary, stream)
        assert seen[-1].is_contiguous(memory_format=layout)
        ends.append(losses)
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *[(name, torch.bfloat16) for name in (*MEMORIES, "slot-clamped")],
        *[(name, torch.float16) for name in ("slot", "slot-l2")],
    ],
)
def test_autocast(name, dtype):
    """The perturbed activation keeps its type, and losses follow float32's."""
    setting = ADVERSARIES[name]
    ends = []
    for enabled in (False, True):
        model, adversary = tiny(), setting.adversary()

        def loss(model, batch, adversary, enabled=enabled):
            adversary.set_batch(batch.indices, batch.view)
            with torch.autocast("cpu", dtype, enabled=enabled):
                output = model(batch.inputs)
            return F.cross_entropy(output.float(), batch.targets)

        site = (setting.arguments.get("sites") or ["input"])[0].replace("*", "0")
        with probing(model, adversary, site) as probe:
            losses = walk(model, adversary, setting.batches(4), loss)
            assert all(d.isfinite().all() for d in probe.deltas())
            assert [a.dtype for a in probe.raw] == [b.dtype for b in probe.perturbed]
            assert probe.deltas()[3].any()
        assert all(value.isfinite().all() for value in model.state_dict().values())
        ends.append(losses)
    assert torch.allclose(*ends, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_perturbations_have_their_size(dtype):
    model, adversary = tiny(), LayerwiseAdversary(BUDGET, ["stem"])
    with probing(model, adversary, "stem") as probe:
        for batch in ADVERSARIES["slot"].batches(2):
            probe.clear()
            with torch.autocast("cpu", dtype):
                output = model(batch.inputs)
            F.cross_entropy(output.float(), batch.targets).backward()
        raw = probe.raw[0].float()
    assert probe.perturbed[0].dtype == dtype
    size = (probe.perturbed[0].float() - raw).abs().mean()
    assert size.item() == pytest.approx(BUDGET * raw.square().mean().sqrt().item(), rel=0.05)
