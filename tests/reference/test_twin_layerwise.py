"""The fast form equals its slow twin, step by step: losses, weights and perturbed activations."""

import pytest
import torch
import torch.nn.functional as F
from layerwise_twin import Twin, step
from torch import nn

from advreg import Batch, LayerwiseAdversary, View

STEPS, EXAMPLES, RATE, BUDGET = 20, 12, 0.1, 0.1


class Network(nn.Module):
    """What `layerwise_twin.step` computes, as modules."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        kind = nn.BatchNorm2d if norm else nn.Identity
        options = {"affine": False} if norm else {}
        self.body = nn.Sequential(kind(3, **options), nn.ReLU())
        self.tail = nn.Sequential(kind(3, **options), nn.ReLU(inplace=True))
        self.head = nn.Linear(3, 3)

    def forward(self, images):
        value = self.tail(self.second(self.body(self.first(images))))
        return self.head(value.mean((2, 3)))


SITES = ["input", "body", "tail"]


def stream(views, dtype):
    """Twenty mini-batches of five, some smaller, in epochs over twelve examples."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(EXAMPLES, 2, 5, 5, generator=generator).to(dtype)
    targets = torch.randint(0, 3, (EXAMPLES,), generator=generator)
    for number in range(STEPS):
        if number % 3 == 0:
            order = torch.randperm(EXAMPLES, generator=generator)
        indices = order[5 * (number % 3) : 5 * (number % 3 + 1)]  # the third has two
        inputs, view = images[indices], None
        if views:
            corners = torch.randint(0, 5, (2, len(indices)), generator=generator)
            flip = torch.rand(len(indices), generator=generator) < 0.5
            view = View(corners[0], corners[1], flip, 2)
            inputs = torch.stack(
                [
                    (image.flip(-1) if mirrored else image)
                    for image, mirrored in zip(
                        [
                            F.pad(image, (2, 2, 2, 2))[:, top : top + 5, left : left + 5]
                            for image, top, left in zip(inputs, *corners.tolist(), strict=True)
                        ],
                        flip,
                        strict=True,
                    )
                ]
            )
        yield Batch(inputs, targets[indices], indices, view)


CASES = {
    "sign": {},
    "l2": {"direction": "l2"},
    "max": {"direction": "max"},
    "random": {"direction": "random"},
    "accumulating": {"step_size": BUDGET / 3},
    "absolute": {"relative": False},
    "relative": {"relative": True},
    "clamped": {"input_range": (0.0, 1.0)},
}


def compare(case, memory, norm, dtype, views=False):
    settings = CASES[case]
    torch.manual_seed(0)
    model = Network(norm).to(dtype)
    names = [name for name, _ in model.named_parameters()]
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    weights = {name: value.requires_grad_() for name, value in weights.items()}
    sites = SITES[:1] if views else SITES
    adversary = LayerwiseAdversary(BUDGET, sites, memory, **settings)
    relative = settings.get("relative")
    twin = Twin(
        BUDGET,
        [relative is True, *[relative is not False] * 2],
        settings.get("direction", "sign"),
        memory == "example",
        settings.get("step_size"),
        settings.get("input_range"),
    )
    if views:
        hidden = twin.perturb
        twin.perturb = lambda site, a, *rest: a if site else hidden(site, a, *rest)
    tolerance = {"atol": 1e-9 if dtype == torch.float64 else 2e-5, "rtol": 1e-5}
    raw, perturbed = {}, {}
    look(model, raw)
    met = 0.0
    with adversary.attach(model):
        look(model, perturbed)
        for number, batch in enumerate(stream(views, dtype)):
            adversary.set_batch(batch.indices, batch.view)
            loss = F.cross_entropy(model(batch.inputs), batch.targets)
            loss.backward()
            for parameter in model.parameters():
                parameter.data -= RATE * parameter.grad
                parameter.grad = None
            signs = [(perturbed[site] - raw[site]).sign() for site in SITES]
            expected, activations = step(twin, weights, batch, RATE, norm, signs)
            torch.testing.assert_close(loss.detach(), expected, **tolerance)
            for site, activation in zip(SITES, activations, strict=True):
                torch.testing.assert_close(
                    perturbed[site], activation, **tolerance, msg=f"step {number}, {site}"
                )
                met += (perturbed[site] - raw[site]).abs().max().item()
            for name, parameter in zip(names, model.parameters(), strict=True):
                torch.testing.assert_close(parameter, weights[name], **tolerance)
    assert met > STEPS * BUDGET / 3  # or there was nothing to compare


def look(model, seen):
    def note(site, tensor):
        seen[site] = tensor.detach().clone()

    model.register_forward_pre_hook(lambda _, args: note("input", args[0]))
    for site in SITES[1:]:
        module = model.get_submodule(site)
        module.register_forward_hook(lambda _, args, output, site=site: note(site, output))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
@pytest.mark.parametrize("memory", ["slot", "example"])
@pytest.mark.parametrize("case", CASES)
def test_fast_equals_slow(case, memory, norm, dtype):
    compare(case, memory, norm, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_fast_equals_slow_through_crops_and_flips(case, dtype):
    compare(case, "example", True, dtype, views=True)


def test_random_signs_are_fresh_fair_and_seeded():
    def signs(seed):
        model = nn.Sequential(nn.Linear(1, 1))
        adversary = LayerwiseAdversary(1.0, ["input"], direction="random", seed=seed)
        model.register_forward_pre_hook(lambda _, args: None)
        seen = []
        with adversary.attach(model):
            model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
            for _ in range(3):
                model(torch.zeros(1000, 1)).sum().backward()
        return torch.stack(seen)

    drawn = signs(0)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean().abs() < 0.1
    assert (drawn[0] * drawn[1]).mean().abs() < 0.15
    assert drawn.equal(signs(0))
    assert not drawn.equal(signs(1))
