"""How far images must move before a layer shows another image's features."""

import math

import pytest
import torch
from torch import nn

from advreg.errors import ConfigurationError, DataError
from advreg.evaluation.invariance import (
    arrivals,
    by_class_pair,
    class_pairs,
    invariance,
    median_interval,
    spread,
)


class Sums(nn.Module):
    """Its layer doubles the images; its classes are whether the first pixel is above 1/2."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.twice.weight.copy_(2 * torch.eye(4))
        self.flat = nn.Flatten()

    def forward(self, images):
        first = self.twice(self.flat(images))[:, :1]
        return torch.cat([1 - first, first - 1], 1)


def test_distances_are_those_that_the_images_moved():
    origins, targets = torch.full((3, 1, 2, 2), 0.1), torch.full((3, 1, 2, 2), 0.9)
    found = arrivals(Sums().eval(), origins, targets, "twice", share=0.25, step_size=0.07)
    # A quarter of the way of 0.8 is left after 0.6: nine steps, all pixels alike.
    assert found.rms.tolist() == pytest.approx([0.63] * 3)
    assert found.largest.tolist() == pytest.approx([0.63] * 3)
    by_class = arrivals(
        Sums().eval(), origins, targets, "twice", share=None, until_class=True, step_size=0.07
    )
    assert by_class.rms.tolist() == pytest.approx([0.42] * 3)


def test_an_image_that_never_arrives_is_infinitely_far():
    origins, targets = torch.full((2, 1, 2, 2), 0.1), torch.full((2, 1, 2, 2), 0.9)
    targets[1] = 0.2
    found = invariance(Sums().eval(), origins, targets, ["input", "twice"], steps=3)
    assert found.keys() == {"input", "twice"}
    for one in found.values():
        assert math.isinf(one.rms[0])
        assert math.isinf(one.largest[0])
    # 4/255 a step: after five steps a fifth of the way of 0.1 would be left, three do not do.
    assert math.isinf(found["twice"].rms[1])
    near = arrivals(Sums().eval(), origins, targets, "twice", steps=5)
    assert near.rms[1].item() == pytest.approx(5 * 4 / 255)


def test_pairs_are_of_every_two_classes_and_repeat_no_image_of_one():
    targets = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    origins, others = class_pairs(targets, 3, seed=1)
    kinds = list(zip(targets[origins].tolist(), targets[others].tolist(), strict=True))
    assert {pair: kinds.count(pair) for pair in kinds} == {
        (0, 1): 2, (0, 2): 3, (1, 0): 2, (1, 2): 2, (2, 0): 3, (2, 1): 2,
    }  # fmt: skip
    for pair in set(kinds):
        chosen = [
            origin for origin, kind in zip(origins.tolist(), kinds, strict=True) if kind == pair
        ]
        assert len(set(chosen)) == len(chosen)
    again = class_pairs(targets, 3, seed=1)
    assert again[0].equal(origins)
    assert not class_pairs(targets, 3, seed=2)[0].equal(origins)


def test_infinite_distances_are_never_averaged():
    found = spread([1.0, 2.0, math.inf, math.inf])
    assert found == (2.0, 1.0, math.inf, 0.5, 4)
    assert spread([math.inf] * 3).median == math.inf
    cells = by_class_pair([1.0, 3.0, math.inf], [0, 0, 1], [1, 1, 0])
    assert cells[0, 1].size == 2
    assert cells[1, 0].arrived == 0


def test_the_interval_holds_the_median_and_widens_with_groups_that_differ():
    numbers = torch.Generator().manual_seed(0)
    values = torch.randn(200, generator=numbers).add(5).tolist()
    low, high = median_interval([values], draws=500)
    assert low < spread(values).median < high
    assert 0.1 < high - low < 0.6  # 2 * 1.96 * 1.25 / sqrt(200) is 0.35
    apart = [[value + shift for value in values[:40]] for shift in (-3, 0, 3)]
    wide = median_interval(apart, draws=500)
    assert wide[1] - wide[0] > 2
    assert median_interval([[math.inf] * 5]) == (math.inf, math.inf)


def test_what_cannot_be_measured_is_said_in_a_sentence():
    images = torch.zeros(2, 1, 2, 2)
    with pytest.raises(DataError, match="two classes or more"):
        class_pairs(torch.zeros(4, dtype=torch.int64), 1)
    with pytest.raises(ConfigurationError, match="each"):
        class_pairs(torch.tensor([0, 1]), 0)
    with pytest.raises(ConfigurationError, match="give a share"):
        arrivals(Sums().eval(), images, images + 1, "twice", share=None)
