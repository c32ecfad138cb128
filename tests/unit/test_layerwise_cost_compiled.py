"""What a site costs in a compiled graph, counted and not timed."""

from collections import Counter

import pytest
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from advreg import LayerwiseAdversary
from advreg._torch_compat import COMPILES_SITES, RELEASE
from advreg.layerwise.kernels import pack_signs

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.skipif(
        RELEASE < COMPILES_SITES, reason="sites as parts of a graph need a newer torch"
    ),
]

ALIAS = torch.ops.aten.detach.default


def network(blocks):
    torch.manual_seed(0)
    layers = [[nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()] for _ in range(blocks)]
    return nn.Sequential(*[nn.Sequential(*layer) for layer in layers])


def graphs(blocks, sites, **settings):
    """The operators of the forward and the backward graph in steady training, and what is saved."""
    seen = {}

    def noting(name):
        def compiler(module, inputs):
            nodes = [node for node in module.graph.nodes if node.op == "call_function"]
            seen[name] = Counter(node.target for node in nodes)
            outputs = module.graph.output_node().args[0]
            made = [one.meta["val"] for one in outputs if one in nodes and one.target is not ALIAS]
            seen[name + " makes"] = sum(one.nbytes for one in made if hasattr(one, "nbytes"))
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
    return seen["forward"], seen["backward"], seen["forward makes"]


@pytest.mark.full
def test_one_operator_of_ours_a_site():
    for sites in (["0"], ["0", "1", "2"]):
        forward, backward, _ = graphs(4, sites, relative=False)
        assert forward[pack_signs] == 0
        assert backward[pack_signs] == len(sites)


@pytest.mark.full
@pytest.mark.parametrize(
    ("form", "relative"), [("operator", True), ("fused", False)], indirect=["form"]
)
def test_operators_a_site_do_not_grow(relative, form):
    totals = []
    for sites in (["0"], ["0", "1"], ["0", "1", "2"]):
        *parts, _ = graphs(5, sites, relative=relative)
        totals.append(sum(sum(part.values()) for part in parts))
    second, third = totals[1] - totals[0], totals[2] - totals[1]
    few, many = (40, 73) if relative else (31, 64)
    assert third <= second <= (few if form == "operator" else many)


@pytest.mark.full
def test_nothing_is_saved_for_a_site_but_its_scale():
    """The perturbed activation is computed again from what a plain network saves."""
    few, many = (graphs(4, sites, relative=True)[2] for sites in (["0"], ["0", "1", "2"]))
    assert many - few <= 2 * 8
