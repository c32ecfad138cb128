"""The fast form beside hooks that anyone would write, in whatever training surrounds them."""

import contextlib
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from advreg import LayerwiseAdversary
from advreg.layerwise.kernels import cpu, layout

SITES, EPSILON, SIZES = ["stem", "body"], 0.1, [8, 8, 5, 8, 3, 8]


class Slow:
    """a + epsilon rho S, S the signs of the gradient before, kept as they are."""

    def __init__(self, model, relative):
        self.stored, self.relative = {}, relative
        for name in SITES:
            module = model.get_submodule(name)
            module.register_forward_hook(partial(self.perturb, name))

    def perturb(self, name, module, args, output):
        signs = torch.zeros_like(output)
        old = self.stored.get(name, signs)[: len(output)]
        signs[: len(old)] = old
        rho = output.detach().float().square().mean().sqrt() if self.relative else 1.0
        perturbed = output + (signs * (rho * EPSILON)).to(output.dtype)
        perturbed.register_hook(partial(self.record, name))
        return perturbed

    def record(self, name, gradient):
        self.stored[name] = torch.where(gradient.isfinite(), gradient, 0).sign()


class Network(nn.Module):
    """Activations of odd sizes; `body` runs again in the backward pass where it is asked to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(5, 7, 3), nn.BatchNorm2d(7), nn.ReLU())
        self.head = nn.Linear(7, 3)
        self.checkpoints = False

    def forward(self, images):
        value = self.stem(images)
        if self.checkpoints:
            value = checkpoint(self.body, value, use_reentrant=False)
        else:
            value = self.body(value)
        return self.head(value.mean((2, 3)))


SURROUNDINGS = {
    "float32": {},
    "bfloat16 autocast": {"autocast": torch.bfloat16},
    "float16 autocast": {"autocast": torch.float16},
    "channels_last": {"layout": torch.channels_last},
    "channels_last, bfloat16": {"layout": torch.channels_last, "autocast": torch.bfloat16},
    "activation checkpointing": {"checkpoints": True},
    "accumulation": {"every": 2},
}


def trained(way, relative, *, autocast=None, layout=None, checkpoints=False, every=1):
    """Losses and weights of mini-batches of several sizes."""
    model = Network().to(memory_format=layout or torch.contiguous_format)
    network, generator = model, torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    with contextlib.ExitStack() as stack:
        if way == "slow":
            slow = Slow(model, relative)
        elif way != "plain":
            # A twin that runs no module twice keeps nothing of a backward pass' own forward pass.
            model.checkpoints = checkpoints
            adversary = LayerwiseAdversary(EPSILON, SITES, relative=relative)
            stack.enter_context(adversary.attach(model))
            if way.startswith("compiled"):
                network = torch.compile(model, backend="aot_eager")
        for number, size in enumerate(SIZES, start=1):
            images = torch.rand(size, 3, 11, 13, generator=generator)
            if layout:
                images = images.to(memory_format=layout)
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                output = network(images)
            loss = F.cross_entropy(output.float(), torch.arange(size) % 3)
            (loss / every).backward()
            losses.append(loss.detach())
            if number % every == 0:
                optimizer.step()
                optimizer.zero_grad()
        if way == "slow":
            assert all(signs.any() for signs in slow.stored.values())
    return torch.stack(losses), torch.cat([p.detach().flatten() for p in model.parameters()])


WAYS = ["kernels", "plain torch", "compiled", "compiled, fused"]
CASES = [
    pytest.param(
        way,
        options,
        relative,
        id=f"{way}, {name}, {'relative' if relative else 'absolute'}",
        marks=[pytest.mark.full] * (way in WAYS[2:]),
    )
    for way in WAYS
    for name, options in SURROUNDINGS.items()
    # A checkpoint of the user's own in compiled code is in test_08_graph.
    if not (way in WAYS[2:] and "checkpoints" in options)
    # The other budget's scale changes nothing about layouts, checkpoints and accumulation.
    for relative in ((False, True) if name in ("float32", "bfloat16 autocast") else (True,))
]


@pytest.mark.parametrize(("way", "options", "relative"), CASES)
@pytest.mark.usefixtures("fresh_compiler")
def test_fast_equals_slow(way, options, relative, monkeypatch):
    if way == "kernels" and not cpu.library():
        pytest.skip("no C++ compiler here")
    if way == "plain torch":
        monkeypatch.setattr(cpu, "library", dict)
    if way == "compiled, fused":
        monkeypatch.setattr(layout, "PACKS_BY_OPERATOR", ())
    seen, expected, plain = (trained(kind, relative, **options) for kind in (way, "slow", "plain"))
    if way.startswith("compiled") or relative:  # rounded in another order
        tolerance = 0.01 if options.get("autocast") else 1e-5
    else:
        tolerance = 0.0
    for one, other in zip(seen, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=tolerance)
    assert not torch.allclose(plain[0], expected[0], rtol=0, atol=2 * tolerance)
