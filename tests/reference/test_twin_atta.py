"""ATTA-1, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import (
    EXAMPLES,
    assert_seeded,
    assert_twins,
    epochs,
    gradient,
    network,
    train,
)

from advreg.errors import ConfigurationError
from advreg.methods import ATTA


def twin(epsilon, step, reset):
    generator = torch.Generator().manual_seed(0)
    frames, visits = {}, {}

    def cut(frame, view, i):
        window = frame[:, view.top[i] : view.top[i] + 6, view.left[i] : view.left[i] + 6]
        return window.flip(2) if view.flip[i] else window

    def loss(model, batch):
        x, y, view = batch.inputs, batch.targets, batch.view
        start = torch.empty_like(x).normal_(0, 0.001, generator=generator)
        for i, index in enumerate(batch.indices.tolist()):
            visits[index] = visits.get(index, 0) + 1
            if (visits[index] - 1) % reset == 0:
                frames[index] = torch.zeros(3, 8, 8, dtype=torch.float16)
            else:
                start[i] = cut(frames[index], view, i).double()
        start = (x + start).clamp(0, 1)
        g = gradient(model, start, lambda outputs: F.cross_entropy(outputs, y))
        delta = (start - x + step * g.sign()).clamp(-epsilon, epsilon)
        attacked = (x + delta).clamp(0, 1)
        for i, index in enumerate(batch.indices.tolist()):
            delta = (attacked - x)[i].half()
            delta = delta.flip(2) if view.flip[i] else delta
            top, left = view.top[i], view.left[i]
            frames[index][:, top : top + 6, left : left + 6] = delta
        return F.cross_entropy(model(attacked), y)

    return loss


def test_equals_its_equation():
    assert_twins(ATTA(epsilon=0.2), twin(0.2, 0.1, 10), epochs(2, views=True))


def test_begins_again_after_so_many_epochs():
    assert_twins(ATTA(epsilon=0.2, reset=2), twin(0.2, 0.1, 2), epochs(5, views=True))


def test_steps_add_up_over_the_epochs():
    """Against a fixed network each epoch goes a step farther, until the budget is spent."""
    method, model = ATTA(epsilon=0.2, step_size=0.04, reset=4), network()
    reach = []
    with method.attach(model, examples=EXAMPLES):
        for _ in range(9):
            for batch in epochs(1):
                inputs = method.attacked(model, batch, F.cross_entropy)
            reach.append((inputs - batch.inputs).abs().max().item())
    steps = [0.04, 0.08, 0.12, 0.16, 0.04, 0.08, 0.12, 0.16, 0.04]
    assert reach == pytest.approx(steps, abs=0.005)


def test_room_for_every_example_is_made_once():
    method, model = ATTA(), network()
    with method.attach(model, examples=EXAMPLES):
        method.attacked(model, next(epochs(1, views=True)), F.cross_entropy)
    stored = method.state_dict()["examples"]["rows"]
    assert stored.shape == (EXAMPLES, 3, 8, 8)
    assert stored.dtype == torch.float16


def test_room_grows_under_autocast():
    method, model = ATTA(epsilon=0.2), network(torch.float32)
    with method.attach(model), torch.autocast("cpu", torch.bfloat16):
        losses = train(model, method, epochs(2, views=True, dtype=torch.float32))
    assert losses.isfinite().all()
    assert method.state_dict()["examples"]["visits"].sum() == 2 * EXAMPLES


def test_defaults_are_the_papers():
    assert ATTA().step_size == pytest.approx(4 / 255)
    assert ATTA().reset == 10


def test_seeded():
    assert_seeded(ATTA)


def test_refuses_no_epoch():
    with pytest.raises(ConfigurationError, match="reset"):
        ATTA(reset=0)
