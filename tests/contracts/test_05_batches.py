"""Semantic 5: other batch sizes, shapes and devices."""

import copy

import pytest
import torch
from probes import probing
from settings import ADVERSARIES, MEMORIES, loss_of, tiny
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
    """One step with a gradient of one's choice; returns the perturbation that it had."""
    probe.clear()
    output = model(activation)
    output.backward(torch.ones_like(output) if gradient is None else gradient)
    return probe.deltas()[0]


def resets(adversary, site="input"):
    return sum(call["memory"]["resets"] for call in adversary.state_dict()["sites"][site]["calls"])


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


@pytest.mark.parametrize("direction", ["sign", "l2"])
@pytest.mark.parametrize("sizes", [(6, 4), (4, 6)])
def test_rows_that_both_batches_have_are_perturbed(sizes, direction):
    model, adversary = tap(direction=direction)
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(sizes[0], 3))
        seen = visit(model, probe, zeros(sizes[1], 3))
    common = min(sizes)
    assert seen.shape == (sizes[1], 3)
    assert torch.allclose(seen[:common], torch.full((common, 3), BUDGET))
    assert not seen[common:].any()


def test_rows_of_the_batch_before_last_are_forgotten():
    model, adversary = tap()
    with probing(model, adversary, "input") as probe:
        for size in (6, 2):
            visit(model, probe, zeros(size, 3))
        seen = visit(model, probe, zeros(6, 3))
    assert seen[:2].all()
    assert not seen[2:].any()


def test_an_accumulated_perturbation_outlasts_a_smaller_batch():
    model, adversary = tap(step_size=BUDGET / 2)
    with probing(model, adversary, "input") as probe:
        for size in (6, 2):
            visit(model, probe, zeros(size, 3))
        seen = visit(model, probe, zeros(8, 3))
        assert torch.allclose(seen[:2], torch.tensor(BUDGET), atol=BUDGET / 100)
        assert torch.allclose(seen[2:6], torch.tensor(BUDGET / 2), atol=BUDGET / 100)
        assert not seen[6:].any()
        seen = visit(model, probe, zeros(8, 3))  # in a memory that has grown
        assert torch.allclose(seen[:6], torch.tensor(BUDGET), atol=BUDGET / 100)
        assert torch.allclose(seen[6:], torch.tensor(BUDGET / 2), atol=BUDGET / 100)


@pytest.mark.parametrize("direction", ["sign", "l2"])
def test_rows_may_be_another_dimension(direction):
    model, adversary = tap(batch_dim=1, direction=direction)
    gradient = torch.randn(3, 6, 2)
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(3, 6, 2), gradient)
        seen = visit(model, probe, zeros(3, 4, 2))
    if direction == "sign":
        expected = gradient.sign()
    else:
        expected = gradient / gradient.square().mean((0, 2), keepdim=True).sqrt()
    assert torch.allclose(seen, BUDGET * expected[:, :4], atol=1e-6)
    assert resets(adversary) == 0


def test_rows_may_be_another_dimension_of_an_input_in_a_graph():
    """An input that asks for its own gradient is clamped on another path."""
    model, adversary = tap(batch_dim=1, input_range=(-0.05, 1.0))
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(3, 4))
        seen = visit(model, probe, zeros(3, 6, requires_grad=True))
        assert torch.allclose(seen[:, :4], torch.full((3, 4), BUDGET))
        assert not seen[:, 4:].any()


def test_another_shape_resets_the_memory():
    """Of as many dimensions, of more, and one that would broadcast."""
    model, adversary = tap()
    with probing(model, adversary, "input") as probe:
        for shape in [(6, 3), (6, 4), (6, 3, 1), (6, 1), (6, 3)]:
            assert not visit(model, probe, zeros(*shape)).any()
            assert visit(model, probe, zeros(*shape)).all()
    assert resets(adversary) == 4


def test_only_the_site_with_another_shape_is_reset():
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
def test_another_device_resets_the_memory(kind):
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
        assert resets(adversary) == 1


def test_another_precision_keeps_the_memory():
    model, adversary = tap()
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(4, 3))
        for dtype in (torch.bfloat16, torch.float64, torch.float16):
            seen = visit(model, probe, zeros(4, 3, dtype=dtype))
            assert seen.dtype == dtype
            assert torch.allclose(seen.double(), torch.tensor(BUDGET).double(), rtol=1e-2)
    assert resets(adversary) == 0


def test_an_empty_batch_does_no_harm():
    model, adversary = tap()
    with probing(model, adversary, "input") as probe:
        visit(model, probe, zeros(4, 3))
        visit(model, probe, zeros(0, 3))
        assert not visit(model, probe, zeros(4, 3)).any()
        assert visit(model, probe, zeros(4, 3)).all()


def test_examples_have_their_own_memory_in_any_batch():
    model, adversary = tap(memory="example")
    gradients = torch.randn(9, 3)
    with probing(model, adversary, "input") as probe:
        for rows in ([0, 1, 2, 3], [4, 5], [6, 7, 8]):
            adversary.set_batch(torch.tensor(rows))
            assert not visit(model, probe, zeros(len(rows), 3), gradients[rows]).any()
        rows = [8, 1, 5, 0, 7, 4]
        adversary.set_batch(torch.tensor(rows))
        seen = visit(model, probe, zeros(6, 3))
    assert seen.equal(BUDGET * gradients[rows].sign())
    assert resets(adversary) == 0


@pytest.mark.parametrize("settings", [{}, {"step_size": 0.1}, {"direction": "l2"}])
def test_a_gradient_goes_to_the_shape_that_it_belongs_to(settings):
    """Another shape came between a forward pass and its backward pass."""
    model = Tap().train()
    adversary = LayerwiseAdversary(0.1, ["input"], memory="example", **settings)
    with adversary.attach(model):
        outputs = []
        for size in (64, 4):
            adversary.set_batch(torch.arange(3))
            outputs.append(model(torch.rand(3, 3, size, size, requires_grad=True)))
        for output in outputs:
            output.sum().backward()
        assert adversary.statistics()["input"]["resets"] == 0
        assert adversary.statistics()["input"]["zeros"] == 0


@pytest.mark.filterwarnings("ignore::advreg.errors.MemoryResetWarning")
@pytest.mark.parametrize("settings", [{}, {"step_size": BUDGET}, {"direction": "l2"}])
def test_an_example_has_a_memory_in_each_of_a_few_shapes(settings):
    model, adversary = tap(memory="example", **settings)
    gradients = {width: torch.randn(6, width).sign() for width in range(1, 6)}
    with probing(model, adversary, "input") as probe:

        def seen(width, rows, state=None):
            adversary.set_batch(torch.tensor(rows))
            return visit(model, probe, zeros(len(rows), width), gradients[width][rows])

        for width in (1, 2, 3, 4):
            assert not seen(width, [0, 5, 2]).any()
        for width in (4, 2, 1, 3):
            assert seen(width, [2, 0]).allclose(BUDGET * gradients[width][[2, 0]])
        adversary.load_state_dict(copy.deepcopy(adversary.state_dict()))
        assert not seen(5, [2, 0]).any()  # in place of the one that was not used for longest, 4
        assert resets(adversary) == 1
        assert seen(2, [5]).allclose(BUDGET * gradients[2][[5]])
        assert not seen(4, [0]).any()
        assert resets(adversary) == 2


def test_a_gradient_for_a_shape_that_is_gone_is_dropped():
    model = Tap().train()
    adversary = LayerwiseAdversary(0.1, ["input"], memory="example")
    with adversary.attach(model):
        outputs = []
        for width in range(1, 6):
            adversary.set_batch(torch.arange(3))
            outputs.append(model(torch.rand(3, width, requires_grad=True)))
        outputs[0].sum().backward()
        assert adversary.statistics()["input"]["zeros"] != 0


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
        adversary.set_batch([0, 4])
        with pytest.raises(StateError, match="index 4 and examples is 4; give the number of all"):
            model(zeros(2, 3))


def test_example_memory_counts_dimension_zero_only():
    with pytest.raises(ConfigurationError, match="dimension 0"):
        LayerwiseAdversary(0.1, ["input"], memory="example", batch_dim=1).attach(Tap())


@pytest.mark.parametrize("name", MEMORIES)
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
