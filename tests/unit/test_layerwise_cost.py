"""What a site costs, counted and not timed: operations, fresh memory, bytes kept."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from advreg import LayerwiseAdversary
from advreg.layerwise.kernels import buffers, cpu

SHAPE = (8, 4, 9, 11)
VALUES = 8 * 4 * 9 * 11


class Tally(TorchDispatchMode):
    """Counts operators, and those whose results are new memory of an activation's size."""

    def __init__(self):
        super().__init__()
        self.operators, self.large = Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # Of `detach` torch 2.8 makes one more, which computes nothing.
        self.operators[func.overloadpacket.__name__] += func is not torch.ops.aten.detach.default
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        for one in result if isinstance(result, (tuple, list)) else (result,):
            fresh = isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in known
            self.large += fresh and one.nbytes >= VALUES
        return result


def counted(sites, relative):
    """What one step takes above a plain one, in the forward and in the backward pass."""
    model = nn.Sequential(*[nn.ReLU() for _ in range(sites)])
    adversary = LayerwiseAdversary(0.1, [str(n) for n in range(sites)], relative=relative)
    inputs = torch.randn(SHAPE, requires_grad=True)
    gradient = torch.randn(SHAPE)
    tallies = []
    with adversary.attach(model):
        for paused in (False, False, True, False):
            forward, backward = Tally(), Tally()
            adversary._pauses = int(paused)
            with forward:
                outputs = model(inputs)
            with backward:
                outputs.backward(gradient)
            tallies.append((forward, backward))
        memory = sum(
            call["memory"]["words"]["codes"].nbytes
            for site in adversary.state_dict()["sites"].values()
            for call in site["calls"]
        )
    plain, steady = tallies[2], tallies[3]
    extra = [one.operators - other.operators for one, other in zip(steady, plain, strict=True)]
    large = [one.large - other.large for one, other in zip(steady, plain, strict=True)]
    return extra, large, memory


needs_kernels = pytest.mark.skipif(
    not cpu.library(), reason="counts what the compiled kernels do; no C++ compiler here"
)


@needs_kernels
@pytest.mark.parametrize("relative", [False, True])
def test_operators_a_site_do_not_grow(relative):
    one, two = (sum(sum(part.values()) for part in counted(n, relative)[0]) for n in (1, 2))
    assert two == 2 * one
    assert one <= (8 if relative else 4)


@needs_kernels
@pytest.mark.parametrize("relative", [False, True])
def test_nothing_of_an_activation_s_size_is_made_but_the_perturbed_tensor(relative):
    _, large, _ = counted(3, relative)
    assert large == [3, 0]


@needs_kernels
def test_perturbed_tensors_take_the_memory_of_those_before(monkeypatch):
    made = []
    block = buffers._block
    monkeypatch.setattr(buffers, "_block", lambda size: [made.append(size), block(size)][1])
    buffers.release()
    model, adversary = nn.Sequential(nn.ReLU(), nn.ReLU()), LayerwiseAdversary(0.1, ["0", "1"])
    inputs = torch.randn(192, 4, 40, 40, requires_grad=True)
    with adversary.attach(model):
        counts = []
        for _ in range(5):
            model(inputs).sum().backward()
            counts.append(len(made))
    assert counts[-1] == counts[1] > 0
