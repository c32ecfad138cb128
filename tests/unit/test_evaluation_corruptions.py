"""Corrupted images: computed here, or read from a CIFAR-10-C folder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from advreg.errors import DataError
from advreg.evaluation.corruptions import (
    OWN_SET,
    cifar_corruptions,
    corrupt,
    own_corruptions,
)


def smooth_images(count=6, channels=3, side=16):
    """Blobs: what is blurred, shrunk or compressed differs a little, not wholly."""
    torch.manual_seed(0)
    coarse = torch.rand(count, channels, 4, 4)
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (fine * 255).round().to(torch.uint8)


def distance(left, right):
    return (left.float() - right.float()).square().mean().sqrt().item()


@pytest.mark.parametrize(("channels", "side"), [(3, 16), (1, 8)])
def test_corruptions_grow_with_their_severity(channels, side):
    for name in OWN_SET:
        check_severities(name, channels, side)


def check_severities(name, channels, side):
    images = smooth_images(channels=channels, side=side)
    kept = images.clone()
    changed = [corrupt(images, name, s, torch.Generator().manual_seed(1)) for s in (1, 2, 3)]
    assert images.equal(kept)
    assert all(c.shape == images.shape and c.dtype == torch.uint8 for c in changed)
    reach = [distance(images, c) for c in changed]
    assert 0 < reach[0] < reach[1] < reach[2] < 128


def test_noise_follows_the_seed_and_the_place_alone():
    data = SimpleNamespace(images=smooth_images(), targets=torch.arange(6))
    first, again, other = (
        {(c.name, c.severity): c for c in own_corruptions(data, seed)} for seed in (1, 1, 2)
    )
    torch.rand(3)
    for name in ("gaussian_noise", "shot_noise"):
        images, targets = first[name, 1].fetch(2, 5)
        assert images.equal(again[name, 1].fetch(2, 5)[0])
        assert not images.equal(other[name, 1].fetch(2, 5)[0])
        assert targets.tolist() == [2, 3, 4]
    assert len(first) == 21


def write_folder(folder, images, labels):
    np.save(folder / "gaussian_noise.npy", images)
    np.save(folder / "labels.npy", labels)


def test_a_cifar_folder_is_read_severity_by_severity(tmp_path):
    """Four images of five severities; image i of severity s is 10 * s + i everywhere."""
    images = np.stack(
        [np.full((8, 8, 3), 10 * s + i, np.uint8) for s in range(5) for i in range(4)]
    )
    images[:, 0, 0, 2] = 200
    images[:, 0, 1, 1] = 99
    write_folder(tmp_path, images, np.tile(np.array([3, 1, 2, 0], np.uint8), 5))
    found = cifar_corruptions(tmp_path, (3, 8, 8))
    assert [(c.name, c.severity, c.count) for c in found] == [
        ("gaussian_noise", severity, 4) for severity in range(1, 6)
    ]
    pixels, targets = found[3].fetch(1, 3)
    assert pixels.shape == (2, 3, 8, 8)
    assert pixels[:, 0, 0, 0].tolist() == [31, 32]
    assert pixels[:, 2, 0, 0].tolist() == [200, 200]
    assert pixels[:, 1, 0, 1].tolist() == [99, 99]
    assert targets.tolist() == [1, 2]
    assert targets.dtype == torch.int64
    assert [c.count for c in cifar_corruptions(tmp_path, (3, 8, 8), limit=2)] == [2] * 5


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no corruptions; give a CIFAR-10-C folder"):
        cifar_corruptions(tmp_path, (3, 8, 8))
    write_folder(tmp_path, np.zeros((20, 8, 8, 3), np.float32), np.zeros(20, np.uint8))
    with pytest.raises(DataError, match=r"give uint8 of shape \(20, 8, 8, 3\)"):
        cifar_corruptions(tmp_path, (3, 8, 8))
    write_folder(tmp_path, np.zeros((20, 8, 8, 3), np.uint8), np.zeros(20, np.uint8))
    with pytest.raises(DataError, match=r"of shape \(20, 32, 32, 3\)"):
        cifar_corruptions(tmp_path, (3, 32, 32))
    (tmp_path / "gaussian_noise.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="is no array"):
        cifar_corruptions(tmp_path, (3, 8, 8))


@pytest.mark.parametrize("labels", [np.full(5, "cat"), np.zeros((5, 1), int), np.full(5, 0.5)])
def test_labels_of_corruptions_that_are_no_numbers_are_refused(labels, tmp_path):
    write_folder(tmp_path, np.zeros((5, 8, 8, 3), np.uint8), labels)
    with pytest.raises(DataError, match="give a class's number for each image"):
        cifar_corruptions(tmp_path, (3, 8, 8))
