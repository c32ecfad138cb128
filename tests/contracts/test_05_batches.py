"""Semantic 5: other batch sizes, shapes and devices."""

import pytest
import torch
from probes import probing
from settings import ADVERSARIES, loss_of, tiny
from torch import nn

from advreg import LayerwiseAdversary, Tap
from advreg.errors import ConfigurationError, StateError

BUDGET = 0.1


def tap(**settings):
    """A network that is one site, and its adversary."""
    return Tap(), LayerwiseAdversary(
        **{"epsilon": BUDGET, "sites": ["input"], "relative": False} | settings
    )


def visit(model, probe, activation, gradient=None):
    """One step with a gradient of one's choice; returns the perturbation that was met."""
    probe.clear()
    output = model(activation)
    output.backward(torch.ones_like(output) if gradient is None else gradient)
    return probe.deltas()[0]


def restarts(adversary, site="input"):
    return sum(call["memory"]["resets"] for call in adversary.state_dict()["sites"][site]["calls"])


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


@pytest.mark.parametrize("direction", ["sign", "l2", "max"])
@pytest.mark.parametrize("sizes", [(6, 4), (4, 6), (6, 6)])
def test_rows_that_both_batches_have_are_perturbed(sizes, direction):
    model, adversary = tap(direction=direction)
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(sizes[0], 3))
        met = visit(model, probe, zeros(sizes[1], 3))
    common = min(sizes)
    assert met.shape == (sizes[1], 3)
    assert torch.allclose(met[:common], torch.full((common, 3), BUDGET))
    assert not met[common:].any()


def test_rows_of_the_batch_before_last_are_forgotten():
    model, adversary = tap()
    with probing(model, adversary, "input") as probe:
        for size in (6, 2):
            visit(model, probe, zeros(size, 3))
        met = visit(model, probe, zeros(6, 3))
    assert met[:2].all()
    assert not met[2:].any()


def test_an_accumulated_perturbation_outlasts_a_smaller_batch():
    model, adversary = tap(step_size=BUDGET / 2)
    with probing(model, adversary, "input") as probe:
        for size in (6, 2):
            visit(model, probe, zeros(size, 3))
        met = visit(model, probe, zeros(8, 3))
        assert torch.allclose(met[:2], torch.tensor(BUDGET), atol=BUDGET / 100)
        assert torch.allclose(met[2:6], torch.tensor(BUDGET / 2), atol=BUDGET / 100)
        assert not met[6:].any()


@pytest.mark.parametrize("direction", ["sign", "l2"])
def test_rows_may_be_another_dimension(direction):
    model, adversary = tap(batch_dim=1, direction=direction)
    gradient = torch.randn(3, 6, 2)
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(3, 6, 2), gradient)
        met = visit(model, probe, zeros(3, 4, 2))
    if direction == "sign":
        expected = gradient.sign()
    else:
        expected = gradient / gradient.square().mean((0, 2), keepdim=True).sqrt()
    assert torch.allclose(met, BUDGET * expected[:, :4], atol=1e-6)
    assert restarts(adversary) == 0


def test_rows_may_be_another_dimension_of_an_input_in_a_graph():
    """An input that asks for its own gradient is clamped on another path."""
    model, adversary = tap(batch_dim=1, input_range=(-0.05, 1.0))
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(3, 4))
        met = visit(model, probe, zeros(3, 6, requires_grad=True))
        assert torch.allclose(met[:, :4], torch.full((3, 4), BUDGET))
        assert not met[:, 4:].any()


@pytest.mark.parametrize("other", [(6, 4), (6, 3, 1), (6, 1)])
def test_another_shape_starts_anew(other):
    model, adversary = tap()
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(6, 3))
        assert not visit(model, probe, zeros(*other)).any()
        assert visit(model, probe, zeros(*other)).all()
        assert not visit(model, probe, zeros(6, 3)).any()
    assert restarts(adversary) == 2


def test_only_the_site_with_another_shape_starts_anew():
    model = nn.Sequential(Tap(), nn.AdaptiveAvgPool1d(2), Tap())
    adversary = LayerwiseAdversary(BUDGET, ["0", "2"], relative=False)
    with probing(model, adversary, "0", "2") as (wide, narrow):
        for width in (4, 6):
            wide.clear()
            narrow.clear()
            model(zeros(3, 2, width)).sum().backward()
        assert not wide.deltas()[0].any()
        assert narrow.deltas()[0].all()


@pytest.mark.parametrize("kind", ["slot", "example"])
def test_another_device_starts_anew(kind):
    """The device without data stands in for a second one; nothing can be moved back from it."""
    model, adversary = tap(memory=kind)
    with adversary.attach(model):
        for device in ("cpu", "cpu", "meta", "meta"):
            adversary.set_batch(torch.arange(4))
            output = model(zeros(4, 3, device=device))
            assert output.device.type == device
            output.backward(torch.ones_like(output))
        adversary.set_batch(torch.arange(4))
        model(zeros(4, 3, device="meta"))
        assert restarts(adversary) == 1


def test_another_precision_keeps_the_memory():
    model, adversary = tap()
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(4, 3))
        for dtype in (torch.bfloat16, torch.float64, torch.float16):
            met = visit(model, probe, zeros(4, 3, dtype=dtype))
            assert met.dtype == dtype
            assert torch.allclose(met.double(), torch.tensor(BUDGET).double(), rtol=1e-2)
    assert restarts(adversary) == 0


def test_an_empty_batch_is_no_harm():
    model, adversary = tap()
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(4, 3))
        visit(model, probe, zeros(0, 3))
        assert not visit(model, probe, zeros(4, 3)).any()
        assert visit(model, probe, zeros(4, 3)).all()


def test_examples_meet_their_own_memory_in_any_batch():
    model, adversary = tap(memory="example")
    gradients = torch.randn(9, 3)
    with probing(model, adversary, "input") as probe:
        for rows in ([0, 1, 2, 3], [4, 5], [6, 7, 8]):
            adversary.set_batch(torch.tensor(rows))
            assert not visit(model, probe, zeros(len(rows), 3), gradients[rows]).any()
        rows = [8, 1, 5, 0, 7, 4]
        adversary.set_batch(torch.tensor(rows))
        met = visit(model, probe, zeros(6, 3))
    assert met.equal(BUDGET * gradients[rows].sign())
    assert restarts(adversary) == 0


@pytest.mark.parametrize("settings", [{}, {"step_size": 0.1}, {"direction": "l2"}])
def test_what_comes_back_to_a_memory_that_started_anew_is_dropped(settings):
    """Another shape came between a forward pass and its backward pass."""
    model = Tap().train()
    adversary = LayerwiseAdversary(0.1, ["input"], memory="example", **settings)
    with adversary.attach(model):
        outputs = []
        for size in (64, 4):
            adversary.set_batch(torch.arange(3))
            outputs.append(model(torch.rand(3, 3, size, size, requires_grad=True)))
        outputs[0].sum().backward()
        assert adversary.statistics()["input"]["resets"] == 1
        outputs[1].sum().backward()
        assert adversary.statistics()["input"]["zeros"] == 0


def test_example_memory_asks_which_examples():
    model, adversary = tap(memory="example")
    with adversary.attach(model):
        with pytest.raises(StateError, match="batch"):
            model(zeros(4, 3))
        adversary.set_batch(torch.arange(3))
        with pytest.raises(StateError, match="3 indices for 4 examples"):
            model(zeros(4, 3))
        adversary.set_batch(torch.arange(4))
        model(zeros(4, 3)).sum().backward()
        with pytest.raises(StateError, match="batch"):
            model(zeros(4, 3))


def test_an_index_that_would_wrap_to_another_example_is_refused():
    model, adversary = tap(memory="example", examples=4)
    with adversary.attach(model):
        with pytest.raises(StateError, match=r"index -1; .* from 0"):
            adversary.set_batch(torch.tensor([0, -1]))
        with pytest.raises(StateError, match="float32"):
            adversary.set_batch(torch.tensor([0.0, 1.0]))
        adversary.set_batch([0, 3])
        model(zeros(2, 3)).sum().backward()
        adversary.set_batch(torch.tensor([3, 1], dtype=torch.int32))
        model(zeros(2, 3)).sum().backward()


def test_example_memory_counts_dimension_zero_only():
    with pytest.raises(ConfigurationError, match="dimension 0"):
        LayerwiseAdversary(0.1, ["input"], memory="example", batch_dim=1).attach(Tap())


@pytest.mark.parametrize("name", ADVERSARIES)
def test_a_smaller_last_batch_trains_on(name):
    setting, model = ADVERSARIES[name], tiny()
    adversary = setting.adversary()
    stream = [*setting.batches(3), *setting.batches(1, size=3), *setting.batches(2)]
    with adversary.attach(model):
        for batch in stream:
            loss = loss_of(model, batch, adversary)
            loss.backward()
            assert loss.isfinite()
    assert all(site["resets"] == 0 for site in adversary.statistics().values())
