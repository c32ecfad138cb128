"""What a site costs in a compiled graph, counted and not timed."""

from collections import Counter

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from advreg import LayerwiseAdversary
from advreg.layerwise import buffers, doors
from advreg.layerwise.planes import Planes

pytestmark = pytest.mark.usefixtures("fresh_compiler")

ADD, SIGN = torch.ops.advreg.add.default, torch.ops.advreg.sign.default


def network(blocks):
    torch.manual_seed(0)
    layers = [[nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()] for _ in range(blocks)]
    return nn.Sequential(*[nn.Sequential(*layer) for layer in layers])


def graphs(blocks, sites, **settings):
    """The operators of the forward and of the backward graph in steady training."""
    seen = {}

    def noting(name):
        def compiler(module, inputs):
            nodes = [node for node in module.graph.nodes if node.op == "call_function"]
            seen[name] = Counter(node.target for node in nodes)
            return make_boxed_func(module.forward)

        return compiler

    backend = aot_autograd(
        fw_compiler=noting("forward"),
        bw_compiler=noting("backward"),
        partition_fn=min_cut_rematerialization_partition,
    )
    model = network(blocks)
    adversary = LayerwiseAdversary(0.1, sites, **settings)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with adversary.attach(model):
        for _ in range(3):
            compiled(torch.randn(8, 4, 6, 6)).sum().backward()
    return seen["forward"], seen["backward"]


def test_one_operator_each_way_and_one_recomputed():
    for sites in (["0"], ["0", "1", "2"]):
        forward, backward = graphs(4, sites, relative=False)
        assert forward[ADD] == len(sites)
        assert backward[ADD] == backward[SIGN] == len(sites)


@pytest.mark.parametrize("form", ["kernels", "fused"])
@pytest.mark.parametrize("relative", [False, True])
def test_operators_a_site_do_not_grow(relative, form, monkeypatch):
    if form == "fused":
        monkeypatch.setattr(doors, "form_on", lambda device: Planes)
    totals = []
    for sites in (["0"], ["0", "1"], ["0", "1", "2"]):
        parts = graphs(5, sites, relative=relative)
        totals.append(sum(sum(part.values()) for part in parts))
    second, third = totals[1] - totals[0], totals[2] - totals[1]
    few, many = (12, 70) if relative else (4, 60)
    assert third <= second <= (few if form == "kernels" else many)


@pytest.mark.parametrize("compiles", [False, True])
def test_perturbed_tensors_take_the_memory_of_those_before(compiles, monkeypatch):
    made = []
    block = buffers._block
    monkeypatch.setattr(buffers, "_block", lambda size: [made.append(size), block(size)][1])
    buffers.release()
    model, adversary = network(3), LayerwiseAdversary(0.1, ["0", "1"])
    step = torch.compile(model, backend="aot_eager", fullgraph=True) if compiles else model
    inputs = torch.randn(192, 4, 40, 40)
    with adversary.attach(model):
        counts = []
        for _ in range(5):
            step(inputs).sum().backward()
            counts.append(len(made))
    assert counts[-1] == counts[2] > 0
