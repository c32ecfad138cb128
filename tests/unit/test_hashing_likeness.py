"""How generated images are compared with training images, and shown beside them."""

import pytest
import torch

from advreg.hashing.generator import TrainingImages, diagnosis, likeness, nearest_images
from advreg.hashing.generator.grids import beside, grid


def images(count):
    return torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8)


def test_nearest_images_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr(likeness, "BLOCK", 7)
    training = images(30)
    places, distances = nearest_images(training[[4, 20]].float() / 255 + 0.01, training)
    assert places.tolist() == [4, 20]
    assert distances.tolist() == pytest.approx([0.08, 0.08], rel=1e-2)
    pixels = training.float().flatten(1) / 255
    apart = [min((one - two).norm() for two in pixels if two is not one) for one in pixels]
    measured = TrainingImages(training).apart
    assert measured == pytest.approx(sorted(apart)[14].item(), rel=1e-4)  # torch's lower median


def test_a_varied_generator_is_praised_and_three_bad_ones_are_named():
    data = images(400)
    training = TrainingImages(data)
    fresh = images(400).float() / 255
    assert diagnosis(training.compare(fresh)) is None
    alike = fresh[:1] + 0.02 * torch.randn(50, 1, 8, 8)
    assert "nearly all alike" in diagnosis(training.compare(alike))
    few = fresh[:5].repeat(80, 1, 1, 1) + 0.02 * torch.randn(400, 1, 8, 8)
    found = training.compare(few)
    assert not found.collapsed  # five images are nearly as far from each other as five hundred
    assert "a few images again and again" in diagnosis(found)
    copied = data[:200].float() / 255 + 0.02 * torch.randn(200, 1, 8, 8)
    assert "nearly those that it was trained on" in diagnosis(training.compare(copied))


def test_grids_have_white_gaps_and_pairs_stand_one_above_the_other():
    pixels = torch.zeros(4, 1, 32, 32)
    pixels[1] = 1
    picture = grid(pixels, columns=2)
    assert picture.shape == (66, 66, 3)
    assert picture[:32, 32:34].min() == 255
    assert picture[0, 0].tolist() == [0, 0, 0]
    rows = beside(torch.zeros(4, 1, 1, 1), torch.ones(4, 1, 1, 1), columns=2)
    assert rows.flatten().tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
