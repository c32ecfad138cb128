"""Semantic 8: compiled, the network gives eager's losses and memories, by value, or says no."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from settings import ADVERSARIES, loss_of, tiny, walk, weights
from torch import nn

from advreg import LayerwiseAdversary

LAYOUTS = [torch.contiguous_format, torch.channels_last]
QUICK = ("slot", "example", "random", "slot-accumulating")
CASES = [
    *[(name, LAYOUTS[name == "slot"], "aot_eager") for name in QUICK],
    *[
        pytest.param(name, layout, "aot_eager", marks=pytest.mark.full)
        for name in ADVERSARIES
        for layout in LAYOUTS
        if name not in QUICK
    ],
    *[
        pytest.param(name, layout, "inductor", marks=pytest.mark.full)
        for name in ("slot", "example")
        for layout in LAYOUTS
    ],
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


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
    """Every tensor that a state holds, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in memories(value)]
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
        assert close.double().mean() > 0.995


@pytest.mark.parametrize(("name", "layout", "backend"), CASES)
def test_attached_then_compiled(name, layout, backend):
    setting = ADVERSARIES[name]
    expected = run(setting, layout)
    assert_same(run(setting, layout, lambda model: compiled(model, backend)), expected)


@pytest.mark.parametrize("name", ["slot", "slot-input", "example"])
def test_compiled_then_attached(name):
    """Code that was compiled for the plain network must not go on running."""
    setting = ADVERSARIES[name]
    expected = run(setting)
    assert_same(run(setting, compile_as=compiled, attach_first=False), expected)


def in_place(model):
    model.compile(backend="aot_eager")
    return model


def in_parts(model):
    model.stage.compile(backend="aot_eager")
    return model


@pytest.mark.parametrize(
    ("way", "attach_first"),
    [(in_place, False), (in_parts, False), pytest.param(in_parts, True, marks=pytest.mark.full)],
)
def test_other_ways_to_compile(way, attach_first):
    setting = ADVERSARIES["slot"]
    assert_same(run(setting, compile_as=way, attach_first=attach_first), run(setting))


def test_a_compiled_training_step():
    """The loss computed inside the compiled function too."""
    setting = ADVERSARIES["slot"]
    ends = []
    for compiles in (False, True):
        model, adversary = tiny(), setting.adversary()

        def loss(images, targets, model=model):
            return F.cross_entropy(model(images), targets)

        call = compiled(loss) if compiles else loss
        call(torch.rand(8, 3, 6, 6), torch.zeros(8, dtype=torch.int64)).backward()
        model = model.train()
        model.load_state_dict(weights(tiny()))
        model.zero_grad()
        with adversary.attach(model):
            losses = []
            for batch in setting.batches(4):
                value = call(batch.inputs, batch.targets)
                value.backward()
                losses.append(value.detach())
            ends.append(torch.stack(losses))
    assert torch.allclose(*ends, atol=1e-5)


@pytest.mark.parametrize("attach_first", [True, False])
def test_fullgraph_is_right_or_refused_by_name(attach_first):
    setting = ADVERSARIES["slot-hidden"]
    try:
        seen = run(
            setting,
            compile_as=lambda model: compiled(model, fullgraph=attach_first),
            attach_first=attach_first,
        )
    except Exception as error:
        assert "adversary" in str(error)  # noqa: PT017
        assert "fullgraph" in str(error)  # noqa: PT017
        return
    assert_same(seen, run(setting))


def test_attaching_to_a_fullgraph_compiled_network_takes_effect_or_raises():
    setting = ADVERSARIES["slot-hidden"]
    model, adversary = tiny(), setting.adversary()
    network = compiled(model, fullgraph=True)
    batch = next(setting.batches(1))
    network(batch.inputs).sum().backward()
    handle = adversary.attach(model)
    try:
        for batch in setting.batches(2):
            loss_of(network, batch, adversary).backward()
    except Exception as error:
        assert "adversary" in str(error)  # noqa: PT017
    else:
        assert all(site["records"] == 2 for site in adversary.statistics().values())
    handle.detach()
    plain = tiny()
    plain.load_state_dict(model.state_dict())
    assert torch.allclose(network(batch.inputs), plain(batch.inputs), atol=1e-6)


def test_pausing_evaluating_and_detaching_take_effect_after_compilation():
    setting = ADVERSARIES["slot-hidden"]
    model, adversary = tiny(norm=False), setting.adversary()
    network = compiled(model)
    handle = adversary.attach(network)
    walk(network, adversary, setting.batches(3))
    plain = tiny(norm=False)
    plain.load_state_dict(model.state_dict())
    batch = next(setting.batches(1, seed=9))
    expected = plain(batch.inputs)

    def perturbed():
        return not torch.allclose(network(batch.inputs), expected, atol=1e-5)

    assert perturbed()
    with adversary.paused():
        assert not perturbed()
    assert perturbed()
    network.eval()
    assert not perturbed()
    network.train()
    with torch.no_grad():
        assert not perturbed()
    assert perturbed()
    handle.detach()
    assert not perturbed()
    with adversary.attach(network):
        walk(network, adversary, setting.batches(2))
        plain.load_state_dict(model.state_dict())
        expected = plain(batch.inputs)
        assert perturbed()


def recompilations(network, calls):
    """How many frames were compiled during the calls."""
    from torch._dynamo.utils import counters

    before = counters["stats"]["unique_graphs"]
    for call in calls:
        call()
    return counters["stats"]["unique_graphs"] - before


def test_steady_training_does_not_recompile():
    setting = ADVERSARIES["slot"]
    model, adversary = tiny(), setting.adversary()
    network = compiled(model, dynamic=False)
    with adversary.attach(model):
        stream = list(setting.batches(8))
        walk(network, adversary, stream[:2])
        assert recompilations(network, [lambda: walk(network, adversary, stream[2:])]) == 0
        small = list(setting.batches(2, size=3))
        graphs = recompilations(network, [lambda: walk(network, adversary, small[:1])])
        again = [
            lambda: walk(network, adversary, small[1:]),
            lambda: walk(network, adversary, stream[:1]),
        ]
        assert graphs > 0
        assert recompilations(network, again) == 0


@pytest.mark.full
def test_a_smaller_batch_and_autocast_by_value():
    setting = ADVERSARIES["slot"]
    ends = []
    for compiles in (False, True):
        model, adversary = tiny(), setting.adversary()
        network = compiled(model) if compiles else model

        def loss(model, batch, adversary):
            with torch.autocast("cpu", torch.bfloat16):
                return F.cross_entropy(model(batch.inputs).float(), batch.targets)

        with adversary.attach(model):
            stream = [*setting.batches(2), *setting.batches(1, size=3), *setting.batches(2)]
            ends.append(walk(network, adversary, stream, loss))
    assert torch.allclose(*ends, rtol=0.02)


@pytest.mark.full
def test_several_calls_and_tuples_by_value():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)
            self.pair = Pair()

        def forward(self, images):
            value = self.conv(self.conv(images).relu())
            return self.head(self.pair(value)[0].mean((2, 3)))

    class Pair(nn.Module):
        def forward(self, value):
            return value.tanh(), value.shape

    ends = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model, adversary = Several(), LayerwiseAdversary(0.1, ["conv", "pair"])
        network = compiled(model) if compiles else model
        with adversary.attach(model), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            losses = walk(network, adversary, ADVERSARIES["slot"].batches(4))
            state = copy.deepcopy(adversary.state_dict())
        ends.append((losses, weights(model), state))
    assert_same(*ends)


@pytest.mark.full
@pytest.mark.parametrize(("name", "backend"), [("resnet20", "aot_eager"), ("convnet", "inductor")])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_a_real_network_by_value(layout, name, backend):
    """In float64, where rounding leaves the signs alone."""
    from advreg.models import build_model

    ends = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = build_model(name, num_classes=3).double().to(memory_format=layout)
        adversary = LayerwiseAdversary(0.05)
        network = compiled(model, backend) if compiles else model
        generator = torch.Generator().manual_seed(0)
        losses = []
        with adversary.attach(model):
            for _ in range(3):
                images = torch.rand(4, 3, 32, 32, generator=generator, dtype=torch.float64)
                targets = torch.randint(0, 3, (4,), generator=generator)
                loss = F.cross_entropy(network(images.to(memory_format=layout)), targets)
                loss.backward()
                losses.append(loss.detach())
            state = copy.deepcopy(adversary.state_dict())
        ends.append((torch.stack(losses), {}, state))
    assert_same(*ends)
