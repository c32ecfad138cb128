"""Semantic 8: where compiled sites meet what is not compiled, not reached or not there."""

import copy

import pytest
import torch
from compiling import compiled
from torch import nn

from advreg import LayerwiseAdversary, Tap
from advreg.errors import NoGradientWarning, SiteError
from advreg.layerwise import SlotMemory, register_memory
from advreg.layerwise.memory import MEMORIES

pytestmark = pytest.mark.usefixtures("fresh_compiler", "form")


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, inputs):
        features = self.body(inputs).tanh()
        return self.first(features), self.second(features)


def of_heads(compiles, chosen):
    """Losses and statistics of training one head a step."""
    torch.manual_seed(0)
    model = Heads().double()
    adversary = LayerwiseAdversary(0.3, ["body", "first", "second"], relative=False)
    network = compiled(model, fullgraph=True) if compiles else model
    losses = []
    with adversary.attach(model):
        for step, head in enumerate(chosen):
            inputs = torch.full((5, 4), step + 1.0, dtype=torch.float64)
            loss = network(inputs)[head].square().sum()
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses), adversary.statistics()


def test_a_head_that_the_loss_does_not_reach_keeps_its_memory():
    """A compiler hands such a head a gradient of zeros; eager code hands it none."""
    eager, mine = of_heads(False, [0, 1, 0, 1, 0]), of_heads(True, [0, 1, 0, 1, 0])
    assert torch.allclose(eager[0], mine[0])
    assert eager[1].pop("body") == mine[1].pop("body")
    for name, records in (("first", 3), ("second", 2)):
        assert eager[1][name]["records"] == mine[1][name]["records"] == records
        assert eager[1][name]["runs"] == mine[1][name]["runs"] == 5
        assert eager[1][name]["zeros"] == mine[1][name]["zeros"] == 0


def test_a_head_that_no_loss_reaches_is_said():
    with pytest.warns(NoGradientWarning, match="'second' ran in compiled code"):
        of_heads(True, [0, 0])


def test_a_backward_pass_after_detaching():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    adversary = LayerwiseAdversary(0.3, ["0"], relative=False)
    network = compiled(model, fullgraph=True)
    with adversary.attach(model):
        network(torch.randn(5, 4)).sum().backward()
        loss = network(torch.randn(5, 4)).sum()
    loss.backward()
    assert adversary.statistics()["0"]["records"] == 2


class Broken(nn.Module):
    """A block that a compiler leaves alone, between parts of which it makes graphs."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Tanh()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.block.forward = torch.compiler.disable(self.block.forward)

    def forward(self, inputs):
        features = self.block(self.shared(self.first(inputs)))
        return self.last(self.shared(features))


@pytest.mark.parametrize(
    "sites",
    [["input", "first", "block.*", "shared", "last"], ["block.0"], ["block.*", "last"]],
    ids=" ".join,
)
def test_eager_parts_of_a_compiled_network(sites):
    """A mini-batch is counted once, and a module on both sides of a break has two memories."""
    ends = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = Broken().double()
        adversary = LayerwiseAdversary(0.3, sites, relative=False, warmup=5)
        network = compiled(model) if compiles else model
        losses = []
        with adversary.attach(model):
            for step in range(4):
                if step == 2:  # a resumed run compiles with memories that are not empty
                    adversary.load_state_dict(copy.deepcopy(adversary.state_dict()))
                inputs = torch.full((5, 4), step + 1.0, dtype=torch.float64)
                loss = network(inputs).square().sum()
                loss.backward()
                losses.append(loss.detach())
            ends.append((torch.stack(losses), adversary.statistics()))
        assert adversary.step == 4
    assert torch.allclose(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


@pytest.mark.filterwarnings("ignore::advreg.errors.AdvregWarning")
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"epsilon": {"0": 0.1, "0.0": 0.3}}, "one tensor but have budgets 0.3 and 0.1"),
        ({"epsilon": 0.1, "sites": ["0"], "batch_dim": 2}, "without the dimension 2 that counts"),
    ],
)
def test_what_eager_sites_refuse_compiled_ones_refuse_too(settings, match, fullgraph):
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.ReLU())
    network = compiled(model, fullgraph=fullgraph)
    kind = Exception if fullgraph else SiteError  # the compiler's own, with the sentence in it

    def train():
        for _ in range(2):
            network(torch.randn(5, 4)).sum().backward()

    with LayerwiseAdversary(**settings).attach(model), pytest.raises(kind, match=match):
        train()


@pytest.mark.filterwarnings("ignore::advreg.errors.NoGradientWarning")
@pytest.mark.parametrize("shape", [(5, 4), (0, 4)])
def test_tensors_without_values(shape):
    model = nn.Sequential(nn.Linear(4, 0 if shape[0] else 3), nn.ReLU())
    network = compiled(model, fullgraph=True)
    with LayerwiseAdversary(0.1, ["0"]).attach(model):
        for _ in range(2):
            assert network(torch.randn(shape)).shape == (shape[0], model[0].out_features)


def test_a_single_row_after_rows_in_another_order():
    """Its dimensions lie in any order, those of several rows only in their own."""
    ends = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(Tap())
        adversary = LayerwiseAdversary(0.3, ["0"], relative=False)
        network = compiled(model, fullgraph=True) if compiles else model
        gradient = torch.randn(3, 4, 2, 2).permute(1, 0, 2, 3)
        inputs = torch.zeros_like(gradient, requires_grad=True)
        with adversary.attach(model):
            model(inputs).backward(gradient)
            ends.append(network(inputs[:1].contiguous()).detach())
    assert torch.allclose(*ends)


def test_a_memory_of_one_s_own_is_called_in_compiled_code_too():
    written = []

    class Counting(SlotMemory):
        def write(self, gradient, batch, before):
            written.append(gradient.shape)
            return super().write(gradient, batch, before)

    register_memory("counting")(Counting)
    try:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        network = compiled(model)
        with LayerwiseAdversary(0.3, ["0"], "counting").attach(model):
            for _ in range(3):
                network(torch.randn(5, 4)).sum().backward()
    finally:
        del MEMORIES["counting"]
    assert written == [(5, 4)] * 3
