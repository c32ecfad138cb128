"""Semantic 8: sites as parts of a compiled graph."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from compiling import assert_same, compiled, memories, one_graph, recompilations, run
from settings import ADVERSARIES, loss_of, tiny, walk, weights
from torch import nn
from torch.utils.checkpoint import checkpoint

from advreg import LayerwiseAdversary, Tap
from advreg.errors import NoGradientWarning, SiteError, UnsupportedError
from advreg.layerwise import SlotMemory, register_memory
from advreg.layerwise.memory import MEMORIES

pytestmark = [pytest.mark.usefixtures("fresh_compiler"), one_graph]
packing = pytest.mark.usefixtures("form")
"""For what depends on how signs are packed: by an operator of ours, or fused by the compiler."""


@packing
@pytest.mark.parametrize(
    "name",
    [
        "slot",
        *(
            pytest.param(name, marks=pytest.mark.full)
            for name in ("slot-clamped", "slot-absolute", "slot-random-start")
        ),
    ],
)
def test_the_whole_network_is_one_graph(name):
    setting = ADVERSARIES[name]
    whole = run(setting, compile_as=lambda model: compiled(model, fullgraph=True))
    assert_same(whole, run(setting))


def test_sites_outside_the_graph_are_refused_under_fullgraph():
    setting = ADVERSARIES["slot-accumulating"]
    with pytest.raises(Exception, match="adversary runs its sites eagerly; compile without"):
        run(setting, compile_as=lambda model: compiled(model, fullgraph=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_that_clamping_would_change_are_refused_within_the_graph(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).to(dtype)
    adversary = LayerwiseAdversary(8 / 255, ["input"], input_range=(0, 1))
    inputs = torch.rand(8, 3, 2, 2).to(dtype)
    with adversary.attach(model):
        network = compiled(model, fullgraph=True)
        for _ in range(2):
            network(inputs).sum().backward()
        for wrong in (inputs * 4 - 2, inputs * 255, inputs.log().log()):
            with pytest.raises(RuntimeError, match="outside the range from 0 to 1, or not finite"):
                network(wrong).sum().backward()
        network(inputs).sum().backward()
    assert adversary.statistics()["input"]["records"] == 3


def test_a_plain_copy_and_an_attached_network_do_not_share_code():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    plain = copy.deepcopy(model)
    adversary = LayerwiseAdversary(0.3, ["1"], relative=False)
    inputs = torch.randn(8, 4)
    with adversary.attach(model):
        networks = compiled(plain), compiled(model)
        for _ in range(3):
            outputs = [network(inputs) for network in networks]
            for output in outputs:
                output.square().sum().backward()
        assert adversary.statistics()["1"]["records"] == 3
    assert torch.allclose(outputs[0], plain(inputs))
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


def signs_of(adversary):
    kept = memories(copy.deepcopy(adversary.state_dict()["sites"]))
    return [memory for memory in kept if memory.dtype == torch.int8]


@pytest.mark.filterwarnings("ignore::advreg.errors.NoGradientWarning")
def test_forward_passes_that_share_a_backward_pass_are_refused():
    """By name, or by torch where it cannot add packed codes; the memories are as they were."""
    model = tiny()
    adversary = ADVERSARIES["slot-hidden"].adversary()
    network = compiled(model, fullgraph=True)
    with adversary.attach(model):
        images = torch.rand(8, 3, 6, 6)
        network(images).sum().backward()
        before = signs_of(adversary)
        loss = network(images).sum() + network(images + 1).sum()
        with pytest.raises((UnsupportedError, NotImplementedError), match=r"share one|Float8"):
            loss.backward()
        assert before
        assert all(map(torch.equal, signs_of(adversary), before))


@packing
def test_gradients_that_are_not_finite_are_counted():
    model = nn.Sequential(nn.Linear(4, 6), nn.Identity())
    adversary = LayerwiseAdversary(0.3, ["0"], relative=False)
    network = compiled(model, fullgraph=True)
    gradient = torch.ones(5, 6)
    gradient[0, 0], gradient[4, 5], gradient[1, 1] = float("nan"), float("inf"), 0
    with adversary.attach(model):
        for _ in range(2):
            network(torch.randn(5, 4)).backward(gradient)
        seen = adversary.statistics()["0"]
    assert seen["nonfinite"] == 4
    assert seen["zeros"] == pytest.approx(3 / 30)


@pytest.mark.full
def test_budgets_that_change_with_the_steps():
    ends = []
    for compiles in (False, True):
        model = tiny()
        adversary = LayerwiseAdversary(0.2, ["stage.*"], warmup=4, budget_split="root")
        network = compiled(model, fullgraph=True) if compiles else model
        with adversary.attach(model):
            losses = walk(network, adversary, ADVERSARIES["slot"].batches(6))
            ends.append((losses, weights(model), copy.deepcopy(adversary.state_dict())))
        assert ends[-1][2]["step"] == 6
    assert_same(*ends)


@pytest.mark.full
def test_eager_steps_between_compiled_ones_go_on():
    setting = ADVERSARIES["slot"]
    model, adversary = tiny(), setting.adversary()
    network = compiled(model, fullgraph=True)
    stream = list(setting.batches(6))
    losses = []
    with adversary.attach(model):
        for part, stance in ((stream[:2], "default"), (stream[2:4], "force_eager")):
            with torch.compiler.set_stance(stance):
                losses.append(walk(network, adversary, part))
        losses.append(walk(network, adversary, stream[4:]))
        state = copy.deepcopy(adversary.state_dict())
    twin, other = tiny(), setting.adversary()
    with other.attach(twin):
        expected = torch.cat([walk(twin, other, stream[i : i + 2]) for i in (0, 2, 4)])
        assert_same(
            (torch.cat(losses), weights(model), state),
            (expected, weights(twin), other.state_dict()),
        )


@pytest.mark.full
def test_an_eager_forward_pass_before_a_compiled_one_s_backward_pass():
    setting = ADVERSARIES["slot-hidden"]
    model, adversary = tiny(), setting.adversary()
    network = compiled(model, fullgraph=True)
    batches = list(setting.batches(3))
    with adversary.attach(model):
        loss = loss_of(network, batches[0], adversary)
        with torch.compiler.set_stance("force_eager"):
            loss_of(network, batches[1], adversary)
        loss.backward()
        loss_of(network, batches[2], adversary).backward()
        assert all(site["zeros"] < 0.5 for site in adversary.statistics().values())


@pytest.mark.full
def test_other_shapes_of_as_many_values_reset_the_memory():
    """As eager sites do; no code for the one shape reads what the other one left."""
    ends = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).double()
        adversary = LayerwiseAdversary(0.3, ["0"], relative=False)
        network = compiled(model, dynamic=False) if compiles else model
        with adversary.attach(model), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            outputs = []
            for shape in [(6, 8), (6, 8), (8, 6), (8, 6), (6, 8), (6, 8)]:
                output = network(torch.ones(4, 3, *shape, dtype=torch.float64)).square().sum()
                output.backward()
                outputs.append(output.detach())
            ends.append(torch.stack(outputs))
            assert adversary.statistics()["0"]["resets"] == 2
    assert torch.allclose(*ends)


@packing
@pytest.mark.full
@pytest.mark.parametrize("crossed", [False, True])
def test_forward_passes_of_two_shapes_before_their_backward_passes(crossed):
    """Each leaves the signs of its own shape, and the last one's stay."""
    ends = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).double()
        adversary = LayerwiseAdversary(0.3, ["0"], relative=False)
        network = compiled(model, dynamic=False) if compiles else model
        with warnings.catch_warnings(), adversary.attach(model):
            warnings.simplefilter("ignore", UserWarning)
            outputs = []
            for _ in range(3):
                pair = [
                    network(torch.ones(4, 3, size, size, dtype=torch.float64)).square().sum()
                    for size in (6, 9)
                ]
                outputs += [output.detach() for output in pair]
                for output in reversed(pair) if crossed else pair:
                    output.backward()
            ends.append((torch.stack(outputs), adversary.statistics()["0"]["records"]))
    assert torch.allclose(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1] == 6


@pytest.mark.full
def test_an_eager_backward_pass_before_a_compiled_one_s():
    """The compiled one recomputes the activation that it had, not one with newer signs."""
    gradients = []
    for disturbs in (False, True):
        model = tiny().double()
        adversary = LayerwiseAdversary(0.5, ["stage.*"], relative=False)
        network = compiled(model, "aot_eager_decomp_partition", fullgraph=True)
        images = torch.rand(8, 3, 6, 6, dtype=torch.float64, requires_grad=True)
        with adversary.attach(model):
            for _ in range(2):
                network(images).square().sum().backward()
            images.grad = None
            loss = network(images).square().sum()
            if disturbs:
                with torch.compiler.set_stance("force_eager"):
                    (-model(images.detach().flip(0))).sum().backward()
            loss.backward()
            gradients.append(images.grad)
    assert torch.allclose(*gradients)


def test_gradients_that_never_come_out_are_warned_of():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    adversary = LayerwiseAdversary(0.3, ["0"])
    network = compiled(model, fullgraph=True)
    handle = adversary.attach(model)
    torch.autograd.grad(network(torch.randn(5, 4)).sum(), list(model.parameters()))
    with pytest.warns(NoGradientWarning, match=r"torch\.autograd\.grad"):
        handle.detach()


@pytest.mark.full
def test_statistics_and_states_compile_nothing():
    setting = ADVERSARIES["slot"]
    model, adversary = tiny(), setting.adversary()
    network = compiled(model, fullgraph=True)
    batches = list(setting.batches(4))

    def step(batch):
        loss_of(network, batch, adversary).backward()
        adversary.statistics()
        adversary.state_dict()

    with adversary.attach(model):
        step(batches[0])
        assert recompilations(network, [lambda: [step(batch) for batch in batches[1:]]]) == 0
    assert copy.deepcopy(adversary).statistics() == adversary.statistics()


@pytest.mark.full
def test_a_state_goes_on_in_compiled_code():
    setting = ADVERSARIES["slot"]
    ends = []
    for resumed in (False, True):
        model, adversary = tiny(), setting.adversary()
        stream = list(setting.batches(4))
        network = compiled(model, fullgraph=True)
        with adversary.attach(model):
            losses = [walk(network, adversary, stream[:2])]
            if resumed:
                adversary.load_state_dict(copy.deepcopy(adversary.state_dict()))
            losses.append(walk(network, adversary, stream[2:]))
            ends.append((torch.cat(losses), weights(model), copy.deepcopy(adversary.state_dict())))
    assert_same(*ends, tolerance=0)


@pytest.mark.full
def test_a_checkpoint_of_the_users_own_in_compiled_code():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6))
            self.head = nn.Linear(6, 2)

        def forward(self, inputs):
            return self.head(checkpoint(self.body, inputs, use_reentrant=False))

    ends = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = Checkpointed().double()
        adversary = LayerwiseAdversary(0.2, ["body.0", "body.2"], relative=False)
        network = compiled(model) if compiles else model
        losses = []
        with adversary.attach(model), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(3):
                inputs = torch.ones(4, 4, dtype=torch.float64)
                loss = F.cross_entropy(network(inputs), torch.tensor([0, 1, 1, 0]))
                loss.backward()
                losses.append(loss.detach())
        ends.append(torch.stack(losses))
    assert torch.allclose(*ends)


@packing
@pytest.mark.full
def test_anomaly_detection_finds_nothing():
    """The signs leave the graph as numbers of a floating type, none of which may be a NaN."""
    setting = ADVERSARIES["slot"]
    with torch.autograd.set_detect_anomaly(True):
        seen = run(setting, compile_as=compiled)
    assert_same(seen, run(setting))


# Compiled sites beside what is not compiled, not reached or not there


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


@packing
def test_a_head_that_the_loss_does_not_reach_keeps_its_memory():
    """A compiler hands such a head a gradient of zeros; eager code hands it none."""
    eager, mine = of_heads(False, [0, 1, 0, 1, 0]), of_heads(True, [0, 1, 0, 1, 0])
    assert torch.allclose(eager[0], mine[0])
    assert eager[1].pop("body") == mine[1].pop("body")
    for name, records in (("first", 3), ("second", 2)):
        assert eager[1][name]["records"] == mine[1][name]["records"] == records
        assert eager[1][name]["runs"] == mine[1][name]["runs"] == 5
        assert eager[1][name]["zeros"] == mine[1][name]["zeros"] == 0


def test_a_head_that_no_loss_reaches_is_warned_of():
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


@pytest.mark.full
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
@pytest.mark.full
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


@packing
@pytest.mark.filterwarnings("ignore::advreg.errors.NoGradientWarning")
@pytest.mark.parametrize("shape", [(5, 4), (0, 4)])
def test_tensors_without_values(shape):
    model = nn.Sequential(nn.Linear(4, 0 if shape[0] else 3), nn.ReLU())
    network = compiled(model, fullgraph=True)
    with LayerwiseAdversary(0.1, ["0"]).attach(model):
        for _ in range(2):
            assert network(torch.randn(shape)).shape == (shape[0], model[0].out_features)


@packing
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


def test_a_memory_of_ones_own_is_called_in_compiled_code_too():
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
