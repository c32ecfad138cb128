"""Frechet and kernel distances on our own features."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from advreg.data import ImageData
from advreg.errors import DataError
from advreg.hashing.generator import (
    frechet_distance,
    kernel_distance,
    measure_quality,
    train_features,
)


def normal(count, mean, scale, seed):
    return mean + np.random.default_rng(seed).standard_normal((count, 4)) @ scale


def test_frechet_distance_is_the_closed_form_and_a_slow_twin_s():
    scale = np.diag([1.0, 2.0, 0.5, 1.0])
    first, second = normal(20_000, 0, np.eye(4), 0), normal(20_000, 1, scale, 1)
    # Of two normal distributions: 4 for the means, sum (s - s')^2 for diagonal deviations.
    assert frechet_distance(first, second) == pytest.approx(4 + 1 + 0.25, rel=0.03)
    few, other = first[:50], second[:60]
    covariances = np.cov(few, rowvar=False), np.cov(other, rowvar=False)
    wanted = np.square(few.mean(0) - other.mean(0)).sum()
    wanted += np.trace(covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]))
    assert frechet_distance(few, other) == pytest.approx(wanted.real)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)
    # Fewer images than features, where a covariance has no inverse.
    assert frechet_distance(few[:3], few[:3]) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_a_slow_twin_s_and_zero_in_expectation():
    first, second = normal(7, 0, np.eye(4), 0), normal(6, 1, np.eye(4), 1)
    first = first[:6]

    def k(x, y):
        return (x @ y / 4 + 1) ** 3

    places = range(6)
    wanted = sum(
        k(first[i], first[j]) + k(second[i], second[j]) for i in places for j in places if i != j
    )
    wanted = wanted / 30 - 2 * sum(k(a, b) for a in first for b in second) / 36
    assert kernel_distance(first, second) == pytest.approx(wanted)
    draws = [
        kernel_distance(normal(40, 0, np.eye(4), seed), normal(40, 0, np.eye(4), seed + 500))
        for seed in range(200)
    ]
    assert np.mean(draws) == pytest.approx(0, abs=4 * np.std(draws) / np.sqrt(200))
    assert kernel_distance(normal(1300, 0, np.eye(4), 0), normal(1200, 1, np.eye(4), 1)) > 1


def test_one_image_is_refused():
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(DataError, match="at least two images"):
            distance(np.zeros((1, 4)), np.zeros((5, 4)))


def two_patterns(count):
    patterns = torch.randint(256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    targets = torch.arange(count) % 2
    pixels = patterns[targets] + torch.randint(-40, 40, (count, 1, 8, 8))
    return ImageData(pixels.clamp(0, 255).byte(), targets, ("one", "two"))


def test_noise_is_farther_than_real_images_and_the_features_are_named():
    state = torch.get_rng_state()
    data = two_patterns(80)
    state = torch.get_rng_state()
    network = train_features(data, epochs=3)
    assert torch.equal(torch.get_rng_state(), state)
    other = two_patterns(60).images
    assert (network(other / 255).argmax(1) == torch.arange(60) % 2).float().mean() > 0.9
    near = measure_quality(network, two_patterns(50).images / 255, data.images, other)
    far = measure_quality(network, torch.rand(50, 1, 8, 8), data.images, other)
    assert far.own_fid > 3 * near.own_fid
    assert far.own_kid > near.own_kid
    assert near.own_fid < 10 * near.real_fid + 0.1
    assert "not those of Inception" in near.to_dict()["features"]
    assert measure_quality(network, other / 255, data.images).real_fid is None
