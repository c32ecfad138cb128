"""Free training, beside its equation and its relatives."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_twins, epochs, network, train

from advreg import LayerwiseAdversary
from advreg.errors import ConfigurationError
from advreg.methods import Free, Standard


def twin(epsilon, step):
    delta = torch.zeros(6, 3, 6, 6, dtype=torch.float64)

    def loss(model, batch):
        size = len(batch)
        x = (batch.inputs + delta[:size]).clamp(0, 1).requires_grad_()
        value = F.cross_entropy(model(x), batch.targets)
        (g,) = torch.autograd.grad(value, x, retain_graph=True)
        delta[:size] = (delta[:size] + step * g.sign()).clamp(-epsilon, epsilon)
        return value

    return loss


def test_equals_its_equation():
    assert_twins(Free(epsilon=0.2, replays=3), twin(0.2, 0.2), epochs(), replays=3)
    method = Free(epsilon=0.2, step_size=0.07, replays=2)
    assert_twins(method, twin(0.2, 0.07), epochs(), replays=2)


def test_of_its_example_it_is_carried_over_the_epochs():
    deltas = torch.zeros(64, 3, 6, 6, dtype=torch.float64)

    def loss(model, batch):
        delta = deltas[batch.indices]
        x = (batch.inputs + delta).clamp(0, 1).requires_grad_()
        value = F.cross_entropy(model(x), batch.targets)
        (g,) = torch.autograd.grad(value, x, retain_graph=True)
        moved = (delta + 0.07 * g.sign()).clamp(-0.2, 0.2)
        deltas[batch.indices] = moved.half().double()
        return value

    method = Free(epsilon=0.2, step_size=0.07, replays=2, memory="example")
    assert_twins(method, loss, epochs(), replays=2)


def test_a_larger_batch_begins_at_zero_where_none_was():
    batches = [next(epochs(1, size=2)), *epochs(1)]
    assert_twins(Free(epsilon=0.2, replays=2), twin(0.2, 0.2), batches, replays=2)


def test_once_a_batch_is_accumulating_slot_memory_at_the_input():
    batches = list(epochs(5))
    free, slot = network(), network()
    method = Free(epsilon=0.2, replays=1)
    with method.attach(free):
        losses = train(free, method, batches)
    adversary = LayerwiseAdversary(0.2, sites="input", step_size=0.2)
    with adversary.attach(slot), (plain := Standard()).attach(slot):
        expected = train(slot, plain, batches)
    assert len(losses) == 20
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-12)
    for name, value in slot.state_dict().items():
        torch.testing.assert_close(free.state_dict()[name], value, rtol=1e-8, atol=1e-10)


def test_once_a_batch_without_a_step_is_plain():
    runs = []
    for method in (Free(epsilon=0.2, step_size=0, replays=1), Standard()):
        model = network()
        with method.attach(model):
            runs.append((train(model, method, epochs()), model.state_dict()))
    assert runs[0][0].equal(runs[1][0])
    assert all(runs[0][1][name].equal(value) for name, value in runs[1][1].items())


def test_a_scaled_loss_moves_alike_and_an_infinite_gradient_not_at_all():
    (batch,) = list(epochs(1))[:1]
    deltas = []
    for scale in (1.0, 2.0**16, float("inf")):
        model, method = network(), Free(epsilon=0.2)
        with method.attach(model):
            method.step(
                model, batch, F.cross_entropy, lambda loss, scale=scale: (scale * loss).backward()
            )
        deltas.append(method.state_dict()["slots"]["rows"])
    assert deltas[0].abs().max() == 0.2
    assert deltas[1].equal(deltas[0])
    assert not deltas[2].any()


def test_defaults_are_the_papers():
    method = Free()
    assert (method.replays, method.passes, method.step_size) == (8, 1, 8 / 255)


def test_refuses_no_replay():
    with pytest.raises(ConfigurationError, match="replays"):
        Free(replays=0)
