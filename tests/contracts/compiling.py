"""Training compiled and eager networks, and comparing the two."""

import copy

import pytest
import torch
from settings import tiny, walk, weights

from advreg._torch_compat import COMPILES_SITES, RELEASE
from advreg.layerwise.packed import PackedWords

one_graph = pytest.mark.skipif(
    RELEASE < COMPILES_SITES,
    reason="sites as parts of a graph need torch " + ".".join(map(str, COMPILES_SITES)),
)


def compiled(model, backend="aot_eager", **options):
    return torch.compile(model, backend=backend, **options)


def in_layout(batch, layout):
    return batch.with_inputs(batch.inputs.to(memory_format=layout))


def run(setting, layout=torch.contiguous_format, compile_as=None, steps=4, attach_first=True):
    """Losses, weights and memories; `compile_as` takes the network and returns what is called."""
    model, adversary = tiny().to(memory_format=layout), setting.adversary()
    network = model
    if not attach_first:
        network = compile_as(model)
        walk(network, adversary, setting.batches(1))
        model.load_state_dict(weights(tiny()))
    with adversary.attach(model):
        if attach_first and compile_as:
            network = compile_as(model)
        stream = [in_layout(batch, layout) for batch in setting.batches(steps)]
        losses = walk(network, adversary, stream)
        state = copy.deepcopy(adversary.state_dict())
    return losses, weights(model), state


def memories(state):
    """Every tensor that a state holds, in order, counts among them, which may be numbers."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict) and "codes" in state:  # packed, in some order of the dimensions
        return [PackedWords.from_state(state).values()]
    if isinstance(state, dict):
        counted = {"nonfinite": torch.as_tensor(state["nonfinite"])} if "nonfinite" in state else {}
        return [tensor for value in (state | counted).values() for tensor in memories(value)]
    return (
        [tensor for value in state for tensor in memories(value)]
        if isinstance(state, (list, tuple))
        else []
    )


def assert_same(seen, expected, tolerance=1e-5):
    losses, end, state = seen
    assert torch.allclose(losses, expected[0], atol=tolerance)
    for name in end:
        assert torch.allclose(end[name], expected[1][name], atol=tolerance), name
    mine, theirs = memories(state["sites"]), memories(expected[2]["sites"])
    assert len(mine) == len(theirs)
    assert mine
    for one, other in zip(mine, theirs, strict=True):
        assert one.shape == other.shape
        close = (one.double() - other.double()).abs() <= 1e-3
        # The signs of gradients within rounding of zero may differ.
        assert not close.numel() or close.double().mean() > 0.995


def recompilations(network, calls):
    """How many frames were compiled during the calls."""
    from torch._dynamo.utils import counters

    before = counters["stats"]["unique_graphs"]
    for call in calls:
        call()
    return counters["stats"]["unique_graphs"] - before
