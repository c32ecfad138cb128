"""The adversary on a GPU, beside the same training on the CPU."""

import copy
import importlib.util

import pytest
import torch
import torch.nn.functional as F

from advreg import LayerwiseAdversary
from advreg._torch_compat import COMPILES_SITES, RELEASE
from advreg.layerwise.kernels import cuda
from advreg.layerwise.packed import PackedWords
from advreg.models import build_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
COMPILES = [
    False,
    pytest.param(
        True,
        marks=pytest.mark.skipif(
            RELEASE < COMPILES_SITES, reason="sites as parts of a graph need torch 2.13"
        ),
    ),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def train(device, layout, settings, compiles=False, autocast=None, steps=3):
    """Losses and memories, in float64 unless `autocast` names another type."""
    torch.manual_seed(0)
    model = build_model("resnet20", 10)
    model = (model if autocast else model.double()).to(device, memory_format=layout)
    adversary = LayerwiseAdversary(0.05, **settings)
    network = torch.compile(model, fullgraph=True) if compiles else model
    generator = torch.Generator().manual_seed(1)
    losses = []
    with adversary.attach(model):
        for _ in range(steps):
            images = torch.rand(8, 3, 32, 32, generator=generator)
            images = images.to(device, next(model.parameters()).dtype, memory_format=layout)
            targets = torch.randint(0, 10, (8,), generator=generator).to(device)
            adversary.set_batch(torch.arange(8, device=device))
            enabled = autocast not in (None, torch.float32)
            with torch.autocast(device, autocast or torch.float32, enabled=enabled):
                loss = F.cross_entropy(network(images).float(), targets)
            loss.backward()
            losses.append(loss.detach().cpu())
        state = copy.deepcopy(adversary.state_dict())
    return torch.stack(losses), state


def values(state):
    memories = [call["memory"] for site in state["sites"].values() for call in site["calls"]]
    return [PackedWords.from_state(packed(memory)).values().cpu() for memory in memories]


def packed(memory):
    return memory["words"] if "words" in memory else memory["stores"][0]["rows"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compiles", COMPILES)
@pytest.mark.parametrize("settings", [{}, {"relative": False}, {"memory": "example"}])
def test_cuda_equals_the_cpu(settings, compiles, layout):
    if compiles and settings.get("memory") == "example":
        pytest.skip("example memory runs between the parts of compiled code, not under fullgraph")
    expected, memory = train("cpu", layout, settings)
    seen, mine = train("cuda", layout, settings, compiles)
    assert torch.allclose(seen, expected, atol=1e-6)
    for one, other in zip(values(mine), values(memory), strict=True):
        assert (one == other).double().mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiles", COMPILES)
def test_autocast_on_cuda(compiles, dtype):
    expected, _ = train("cpu", torch.contiguous_format, {}, autocast=torch.bfloat16)
    seen, _ = train("cuda", torch.contiguous_format, {}, compiles, autocast=dtype)
    assert torch.allclose(seen, expected, rtol=0.05)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_the_triton_kernels_equal_plain_torch(autocast, layout, monkeypatch):
    """In a whole training, to the bit; `test_kernels_triton` has each of them."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    autocast = autocast or torch.float32
    assert cuda._kernels() is not None
    seen, memory = train("cuda", layout, {}, autocast=autocast)
    monkeypatch.setattr(cuda, "_kernels", lambda: None)
    expected, slow = train("cuda", layout, {}, autocast=autocast)
    assert torch.equal(seen, expected)
    for one, other in zip(values(memory), values(slow), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("settings", [{}, {"memory": "example", "examples": 8}])
def test_no_step_waits_for_the_device(settings):
    torch.manual_seed(0)
    model = build_model("resnet20", 10).cuda()
    adversary = LayerwiseAdversary(0.05, **settings)
    images, targets = torch.rand(8, 3, 32, 32).cuda(), torch.arange(8).cuda()

    def step():
        adversary.set_batch(targets)
        F.cross_entropy(model(images), targets).backward()

    with adversary.attach(model):
        step()
        step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
