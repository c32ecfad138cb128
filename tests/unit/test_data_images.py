import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advreg.data import DataSplits, ImageData
from advreg.data.splits import hold_out, limited, stratified_order, validation_count
from advreg.errors import ConfigurationError, DataError


def images(shape=(3, 4, 4)):
    return (torch.arange(6 * math.prod(shape)) * 7 % 256).to(torch.uint8).reshape(6, *shape)


def data(classes=("a", "b", "c"), **settings):
    return ImageData(images(**settings), torch.arange(6) % 3, classes)


def test_from_arrays_keeps_bytes_and_rounds_floats():
    pixels = images()
    kept = ImageData.from_arrays(pixels.numpy(), [0, 1, 2, 0, 1, 2])
    assert torch.equal(kept.images, pixels)
    assert kept.classes == ("0", "1", "2")
    scaled = ImageData.from_arrays(pixels.double() / 255, kept.targets.to(torch.int8))
    assert torch.equal(scaled.images, pixels)
    assert scaled.targets.dtype == torch.int64
    grey = ImageData.from_arrays(np.full((2, 4, 5), 0.5, dtype=np.float32), [0.0, 1.0], ["x", "y"])
    assert grey.shape == (1, 4, 5)
    assert grey.images.unique().tolist() == [128]


def test_arrays_that_are_no_images_are_refused():
    for pixels, targets, mend in (
        (np.full((2, 4, 4), np.nan), [0, 1], "NaN pixels; remove or repair"),
        (np.full((2, 4, 4), 1.5), [0, 1], r"from 1.5 to 1.5; scale them to \[0, 1\]"),
        (np.full((2, 4, 4), -0.1), [0, 1], "scale them"),
        (np.full((2, 4, 4), np.inf), [0, 1], "scale them"),
        (np.zeros((2, 4, 4), dtype=np.int64), [0, 1], r"give bytes \(uint8\) or floats"),
        (np.zeros((2, 32, 32, 3)), [0, 1], "move the channels to dimension 1"),
        (np.zeros((2, 16)), [0, 1], r"of shape \(N, C, H, W\)"),
        (np.zeros((0, 4, 4)), [], "at least one"),
        (np.zeros((2, 4, 4)), [0, 1, 2], "one int64 label for each image"),
        (np.zeros((2, 4, 4)), [0, 0.5], "Labels are not whole numbers"),
        (np.zeros((2, 4, 4)), [0, float("nan")], "Labels are not whole numbers"),
        (np.zeros((2, 4, 4)), [0, -1], "from -1 to 0, .* give labels from 0 to 0"),
    ):
        with pytest.raises(DataError, match=mend):
            ImageData.from_arrays(pixels, targets)
    for pixels in (None, [[[1.0], [0.5, 0.5]]], "images", [None]):
        with pytest.raises(DataError, match=r"Images are no numbers .*; give bytes \(uint8\)"):
            ImageData.from_arrays(pixels, [0])
    for targets in (None, [[1], [1, 2]], "a", 0, [10**30]):
        with pytest.raises(DataError, match=r"give each image its class's|one int64 label"):
            ImageData.from_arrays(images(), targets)
    beyond = np.array([0x7FFFFFFF], np.uint32).view("U1")  # no character
    for classes in (3, "abc", np.array("abc"), [["a"], ["b", "c"]], [None], beyond):
        with pytest.raises(DataError, match="give a name for each class"):
            ImageData.from_arrays(images(), [0] * 6, classes)
    with pytest.raises(DataError, match="from 0 to 2, and the number of classes is 2"):
        data(classes=("a", "b"))


def test_bytes_from_0_to_1_are_refused_but_in_a_part():
    dark = torch.zeros(6, 1, 4, 4, dtype=torch.uint8)
    dark[0], dark[5] = 1, 9
    chosen = ImageData(dark, torch.zeros(6, dtype=torch.int64), ("a",)).select(torch.arange(3))
    assert chosen.images.equal(dark[:3])
    for make in (ImageData, ImageData.from_arrays):
        with pytest.raises(DataError, match=r"bytes from 0 to 1.*floats in \[0, 1\]"):
            make(chosen.images, chosen.targets, ("a",))


def test_names_of_classes_are_text():
    for names in (["1", "2"], [1, 2], np.array([1, 2]), np.array([b"1", b"2"]), ("1", "2")):
        assert ImageData.from_arrays(images(), [0, 1] * 3, names).classes == ("1", "2")


def test_select_numbers_from_the_start():
    chosen = data().select(torch.tensor([4, 1]))
    assert torch.equal(chosen.images, images()[[4, 1]])
    assert chosen.targets.tolist() == [1, 1]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_statistics_are_numpys(count, channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, channels, 5, 3), dtype=np.uint8)
    mean, std = ImageData.from_arrays(torch.from_numpy(pixels), [0] * count).statistics()
    scaled = pixels / 255
    assert np.allclose(mean, scaled.mean((0, 2, 3)), rtol=0, atol=1e-12)
    assert np.allclose(std, np.maximum(scaled.std((0, 2, 3)), 1 / 255), rtol=0, atol=1e-9)


def test_statistics_in_chunks_and_of_a_constant_channel(monkeypatch):
    whole = data().statistics()
    monkeypatch.setattr("advreg.data.mapped._AT_ONCE", 4 * data().images[0].numel())
    assert data().statistics() == whole
    mean, std = ImageData.from_arrays(np.zeros((2, 4, 4)), [0, 0]).statistics()
    assert (mean, std) == ((0.0,), (1 / 255,))


def test_splits_must_agree():
    small = data(shape=(3, 4, 3))
    with pytest.raises(DataError, match=r"for test .*give both the same size"):
        DataSplits(data(), data(), small, "x")
    with pytest.raises(DataError, match="for validation"):
        DataSplits(data(), data(classes=("a", "b", "d")), data(), "x")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 2**40), st.data())
def test_every_beginning_is_stratified(labels, seed, draw):
    targets = torch.tensor(labels)
    order = stratified_order(targets, seed)
    assert order.sort().values.tolist() == list(range(len(labels)))
    count = draw.draw(st.integers(0, len(labels)))
    # With K classes the share n/N of a class of c examples is rounded at a place that is off by
    # at most K/(2N).
    kinds = targets.unique()
    for kind in kinds:
        members = int((targets == kind).sum())
        chosen = int((targets[order[:count]] == kind).sum())
        slack = 0.5 + members * len(kinds) / (2 * len(labels))
        assert abs(chosen - members * count / len(labels)) <= slack + 1e-9


def test_no_class_is_always_first():
    first = {int(stratified_order(torch.arange(10), seed)[0]) for seed in range(60)}
    assert first == set(range(10))


def test_order_depends_on_the_seed_alone():
    targets = torch.arange(5).repeat(20)
    torch.manual_seed(1)
    first = stratified_order(targets, 7)
    torch.manual_seed(2)
    assert torch.equal(first, stratified_order(targets, 7))
    assert not torch.equal(first, stratified_order(targets, 8))


def test_hold_out_parts_in_two():
    held, rest = hold_out(torch.arange(5).repeat(20), 15, 0)
    assert sorted(held.tolist() + rest.tolist()) == list(range(100))
    assert held.tolist() == sorted(held.tolist())
    assert (held % 5).bincount().tolist() == [3] * 5


def test_the_number_of_validation_images():
    given = (0.1, 898), (0.1, 10**6), (0.01, 20), (1, 20), (300, 898), ("1/4", 8)
    assert [validation_count(*one) for one in given] == [90, 5000, 1, 1, 300, 2]
    for wanted in (0, -1, 1.5, "a", float("nan")):
        with pytest.raises(ConfigurationError, match="validation is"):
            validation_count(wanted, 100)
    for wanted, available in ((0.1, 1), (100, 100), (0.99, 20)):
        with pytest.raises(DataError, match="would leave nothing"):
            validation_count(wanted, available)


def test_limits_and_seeds_that_cannot_be():
    for limit in (0, -3, 31, 2.5):
        with pytest.raises(DataError, match="give a whole number from 1 to 30"):
            limited(torch.arange(30), torch.zeros(60, dtype=torch.int64), limit, 0)
    with pytest.raises(ConfigurationError, match="seed is -1"):
        stratified_order(torch.zeros(3), -1)
