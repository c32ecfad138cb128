"""Semantic 8: attaching, pausing and detaching take effect after compilation, or say no."""

import pytest
import torch
from compiling import assert_same, compiled, run
from settings import ADVERSARIES, loss_of, tiny, walk

pytestmark = pytest.mark.usefixtures("fresh_compiler")


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


@pytest.mark.usefixtures("form")
def test_anomaly_detection_has_nothing_to_say():
    """The signs leave the graph as numbers of a floating type, none of which may be a NaN."""
    setting = ADVERSARIES["slot"]
    with torch.autograd.set_detect_anomaly(True):
        seen = run(setting, compile_as=compiled)
    assert_same(seen, run(setting))
