"""Semantic 8: compiled, the network gives eager's losses and memories, by value.

Attaching, pausing and detaching after compilation take effect; steady training compiles once.
"""

import copy
import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from compiling import assert_same, compiled, one_graph, recompilations, run
from settings import ADVERSARIES, loss_of, tiny, walk, weights
from torch import nn

from advreg import LayerwiseAdversary, _torch_compat
from advreg.errors import GraphBreakWarning
from advreg.layerwise.compiled import form

pytestmark = pytest.mark.usefixtures("fresh_compiler")
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize(
    ("name", "layout", "backend"),
    [
        ("slot", LAYOUTS[1], "aot_eager"),
        # These run between the parts of the graph: dense or by example, in levels, without memory.
        *[
            pytest.param(name, LAYOUTS[0], "aot_eager", marks=pytest.mark.full)
            for name in ("slot-max", "example", "random", "slot-accumulating")
        ],
        *[pytest.param("slot", layout, "inductor", marks=pytest.mark.full) for layout in LAYOUTS],
        pytest.param("example", LAYOUTS[1], "inductor", marks=pytest.mark.full),
    ],
)
def test_attached_then_compiled(name, layout, backend):
    setting = ADVERSARIES[name]
    expected = run(setting, layout)
    assert_same(run(setting, layout, lambda model: compiled(model, backend)), expected)


@pytest.mark.parametrize("name", ["slot", pytest.param("example", marks=pytest.mark.full)])
@pytest.mark.full
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


@pytest.mark.full
@pytest.mark.parametrize(
    ("way", "attach_first"),
    [(in_place, False), (in_parts, False), (in_parts, True)],
)
def test_other_ways_to_compile(way, attach_first):
    setting = ADVERSARIES["slot"]
    assert_same(run(setting, compile_as=way, attach_first=attach_first), run(setting))


@pytest.mark.full
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


def test_a_torch_too_old_for_sites_in_a_graph_breaks_it_there_and_says_so_once(monkeypatch):
    monkeypatch.setattr(_torch_compat, "COMPILES_SITES", (99, 0))
    monkeypatch.setattr(form, "_SAID", [])
    setting = ADVERSARIES["slot"]
    expected = run(setting)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            assert_same(run(setting, compile_as=compiled), expected)
    said = [str(warning.message) for warning in seen if warning.category is GraphBreakWarning]
    assert len(said) == 1
    assert "Install torch 99.0 or newer" in said[0]
    with pytest.raises(Exception, match="adversary runs its sites eagerly; compile without"):
        run(setting, compile_as=lambda model: compiled(model, fullgraph=True))


# Attaching, pausing and detaching after compilation


@one_graph
def test_attaching_to_and_detaching_from_a_fullgraph_compiled_network():
    setting = ADVERSARIES["slot-hidden"]
    model, adversary = tiny(), setting.adversary()
    network = compiled(model, fullgraph=True)
    batch = next(setting.batches(1))
    network(batch.inputs).sum().backward()
    with adversary.attach(model):
        for batch in setting.batches(2):
            loss_of(network, batch, adversary).backward()
        assert all(site["records"] == 2 for site in adversary.statistics().values())
    plain = tiny()
    plain.load_state_dict(model.state_dict())
    assert torch.allclose(network(batch.inputs), plain(batch.inputs), atol=1e-6)


def test_a_dropped_network_does_not_reset_the_compiler(monkeypatch):
    """The garbage collector comes at any time, within another network's compilation too."""
    config, resets = torch._dynamo.config, []
    skipped = config.skip_nnmodule_hook_guards
    setting = ADVERSARIES["slot-hidden"]
    model, adversary = tiny(), setting.adversary()
    adversary.attach(model)
    assert not config.skip_nnmodule_hook_guards
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    gone = weakref.ref(model)
    del model, adversary
    gc.collect()
    assert gone() is None
    assert not resets
    assert config.skip_nnmodule_hook_guards is skipped


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
