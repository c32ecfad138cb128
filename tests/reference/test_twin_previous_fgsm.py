"""FGSM from the previous attack's end, beside its equation."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import (
    assert_seeded,
    assert_twins,
    epochs,
    gradient,
    network,
    passes,
)

from advreg import Batch
from advreg.errors import ConfigurationError, StateError, UnsupportedError
from advreg.methods import PreviousFGSM


def attack(model, x, y, delta, epsilon, step):
    """The perturbation after one step from `delta`."""
    start = (x + delta).clamp(0, 1)
    g = gradient(model, start, lambda outputs: F.cross_entropy(outputs, y))
    delta = (start - x + step * g.sign()).clamp(-epsilon, epsilon)
    return (x + delta).clamp(0, 1) - x


def uniform(x, epsilon, generator):
    return torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 * epsilon - epsilon


def twin_batch(epsilon, step):
    generator = torch.Generator().manual_seed(0)
    kept = []

    def loss(model, batch):
        x, y = batch.inputs, batch.targets
        fresh = list(uniform(x, epsilon, generator))
        start = [kept[i] if i < len(kept) else fresh[i] for i in range(len(x))]
        delta = attack(model, x, y, torch.stack(start), epsilon, step)
        kept[: len(x)] = list(delta)
        return F.cross_entropy(model(x + delta), y)

    return loss


def frame_pixels(view, i):
    """Of example i: the frame's row and column behind each pixel, one after the other."""
    for row in range(6):
        for column in range(6):
            across = 5 - column if view.flip[i] else column
            yield row, column, int(view.top[i]) + row, int(view.left[i]) + across


def twin_epoch(epsilon, step):
    generator = torch.Generator().manual_seed(0)
    kept = {}

    def loss(model, batch):
        x, y, view = batch.inputs, batch.targets, batch.view
        delta = uniform(x, epsilon, generator)
        for i, index in enumerate(batch.indices.tolist()):
            if index in kept:
                for row, column, frame_row, frame_column in frame_pixels(view, i):
                    delta[i, :, row, column] = kept[index][:, frame_row, frame_column].double()
        delta = attack(model, x, y, delta, epsilon, step)
        for i, index in enumerate(batch.indices.tolist()):
            frame = kept.setdefault(index, torch.zeros(3, 8, 8, dtype=torch.float16))
            for row, column, frame_row, frame_column in frame_pixels(view, i):
                frame[:, frame_row, frame_column] = delta[i, :, row, column].half()
        return F.cross_entropy(model(x + delta), y)

    return loss


def test_equals_its_equation_from_the_previous_batch():
    assert_twins(PreviousFGSM(epsilon=0.2, start="batch"), twin_batch(0.2, 0.2), epochs())
    method = PreviousFGSM(epsilon=0.2, step_size=0.1, start="batch")
    assert_twins(method, twin_batch(0.2, 0.1), [next(epochs(1, size=2)), *epochs()])


def test_equals_its_equation_from_the_previous_epoch():
    method = PreviousFGSM(epsilon=0.2, step_size=0.1, start="epoch")
    assert_twins(method, twin_epoch(0.2, 0.1), epochs(3, views=True))


def test_without_a_view_the_frame_is_the_image():
    method, model = PreviousFGSM(epsilon=0.2), network()
    (batch,) = epochs(1, size=20)
    with method.attach(model, examples=20):
        first = method.attacked(model, batch, F.cross_entropy)
    kept = method.state_dict()["epoch"]
    assert kept["rows"].shape == (20, 3, 6, 6)
    assert kept["rows"][batch.indices].equal((first - batch.inputs).half())


def test_defaults_are_the_papers():
    assert PreviousFGSM().step_size == pytest.approx(8 / 255)


def test_seeded():
    assert_seeded(PreviousFGSM)


def test_refusals():
    with pytest.raises(ConfigurationError, match="batch or epoch"):
        PreviousFGSM(start="image")
    batch = next(epochs(1))
    with pytest.raises(StateError, match="indices"):
        passes(PreviousFGSM(), [Batch(batch.inputs, batch.targets)])
    with pytest.raises(UnsupportedError, match=r"advreg\.View"):
        passes(PreviousFGSM(), [Batch(batch.inputs, batch.targets, batch.indices, range(6))])
