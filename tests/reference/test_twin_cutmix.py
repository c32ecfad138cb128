"""CutMix equals its equation, pixel by pixel; its random numbers are its own."""

import pytest
import torch
import torch.nn.functional as F
from attack_twins import assert_seeded, assert_twins, epochs, network

from advreg import Batch
from advreg.errors import ConfigurationError, DataError
from advreg.methods.cutmix import CutMix, area, rectangle


def mixed_by_hand(batch, box, order):
    """Images and the share of each that is its own."""
    images, own = batch.inputs.clone(), 0
    for index in range(len(images)):
        own = 0
        for row in range(6):
            for column in range(6):
                if row in range(box[0].start, box[0].stop) and column in range(
                    box[1].start, box[1].stop
                ):
                    images[index, :, row, column] = batch.inputs[order[index], :, row, column]
                else:
                    own += 1
    return images, own / 36


def test_equals_its_equation():
    draws = CutMix(0.8, 0.7, seed=3)
    mixes = []

    def step(model, batch):
        box, order = draws.draw(len(batch), 6, 6)
        mixes.append(box is not None)
        rows = torch.arange(len(batch))
        if box is None:
            return -model(batch.inputs).log_softmax(1)[rows, batch.targets].mean()
        images, share = mixed_by_hand(batch, box, order)
        losses = -model(images).log_softmax(1)
        first, second = losses[rows, batch.targets], losses[rows, batch.targets[order]]
        return (share * first + (1 - share) * second).mean()

    assert_twins(CutMix(0.8, 0.7, seed=3), step, epochs(3))
    assert {*mixes} == {True, False}


def test_targets_are_the_mixed_probabilities():
    batch = next(epochs())
    method, draws = CutMix(probability=1.0, seed=1), CutMix(probability=1.0, seed=1)
    box, order = draws.draw(len(batch), 6, 6)
    with method.attach(model := network()):
        output = method.step(model, batch, F.cross_entropy, torch.Tensor.backward)
    share = 1 - area(box) / 36
    expected = torch.zeros(len(batch), 3)
    for index in range(len(batch)):
        expected[index, batch.targets[index]] += share
        expected[index, batch.targets[order[index]]] += 1 - share
    torch.testing.assert_close(output.targets, expected)
    assert not output.hard_labels


@pytest.mark.parametrize(
    ("share", "centre", "box"),
    [
        (0.75, (8, 8), (slice(4, 12), slice(4, 12))),
        (0.75, (0, 15), (slice(0, 4), slice(11, 16))),
        (0.0, (8, 8), (slice(0, 16), slice(0, 16))),
        (1.0, (3, 5), (slice(3, 3), slice(5, 5))),
    ],
)
def test_rectangles(share, centre, box):
    assert rectangle(share, centre, 16, 16) == box


def test_shares_are_uniform_and_mini_batches_mix_as_often_as_set():
    method = CutMix(probability=0.4)
    drawn = [method.draw(1, 64, 64)[0] for _ in range(2000)]
    mixed = [area(box) / 64**2 for box in drawn if box is not None]
    assert len(mixed) / 2000 == pytest.approx(0.4, abs=0.04)
    # Of sides r with r^2 uniform, r (1 - r / 4) lies inside on average: 1/2 - 1/5 + 1/48 of the
    # area after both.
    assert sum(mixed) / len(mixed) == pytest.approx(0.321, abs=0.03)


def test_seeded():
    assert_seeded(CutMix)


def test_targets_may_be_probabilities():
    batch = next(epochs())
    soft = F.one_hot(batch.targets, 3).double()
    outputs = []
    for targets in (batch.targets, soft):
        model, method = network(), CutMix(probability=1.0)
        with method.attach(model):
            mixed = Batch(batch.inputs, targets)
            outputs.append(method.step(model, mixed, F.cross_entropy, torch.Tensor.backward))
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)


@pytest.mark.parametrize(
    ("settings", "mend"),
    [({"concentration": 0}, "concentration is 0"), ({"probability": 0.0}, "probability is 0"),
     ({"probability": 1.5}, "above 0 and up to 1")],
)  # fmt: skip
def test_bad_settings_are_named(settings, mend):
    with pytest.raises(ConfigurationError, match=mend):
        CutMix(**settings)


def test_only_images_can_be_cut():
    method, model = CutMix(), torch.nn.Linear(4, 3)
    batch = Batch(torch.rand(2, 4), torch.tensor([0, 1]))
    with method.attach(model), pytest.raises(DataError, match=r"shape \(2, 4\) and CutMix is for"):
        method.step(model, batch, F.cross_entropy, torch.Tensor.backward)
