"""All images of a source under one numbering."""

import numpy as np
import pytest
import torch

from advreg.data.sources import digits
from advreg.errors import ConfigurationError, DataError
from advreg.hashing.data import HashImages, load_images, split_images


def test_digits_are_numbered_training_images_first_and_split_in_proportion():
    data, source = load_images("digits"), digits()
    assert len(data) == 1797
    assert torch.equal(data.images[-data.test :], source.test.images)
    assert torch.equal(data.images[: -data.test], source.train.images)
    split = split_images(data)
    assert (split.name, len(split.query), len(split.train)) == ("digits", 200, 500)
    assert len(split.database) == 1097
    assert not split.train_in_database
    fewer = split_images(data, query=5, train=10)
    assert (len(fewer.query), len(fewer.train)) == (50, 100)
    own = split_images(data, "own")
    assert (len(own.query), len(own.database)) == (899, 898)


@pytest.mark.parametrize("several", [False, True], ids=["classes", "labels"])
def test_arrays_come_from_a_file(several, tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    targets = random.integers(0, 2, (40, 5)) if several else np.arange(40) % 4
    np.savez(tmp_path / "mine.npz", images=images, targets=targets, test=8)
    data = load_images(tmp_path / "mine.npz")
    assert (data.name, data.test, len(data.classes)) == ("mine", 8, 5 if several else 4)
    assert data.images.numpy().tolist() == images.tolist()
    assert data.targets.tolist() == targets.tolist()
    split = split_images(data, "inside", query=1, train=2, seed=5)
    assert len(split.query) == (5 if several else 4)
    assert len(split_images(data, "own").query) == 8


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load_images(tmp_path / "nowhere.npz")
    np.savez(tmp_path / "odd.npz", pixels=np.zeros(3))
    with pytest.raises(DataError, match="arrays images and targets"):
        load_images(tmp_path / "odd.npz")
    with pytest.raises(DataError, match="0 or 1"):
        HashImages.from_arrays(np.zeros((3, 8, 8), np.uint8), np.full((3, 2), 2))


def test_arrays_of_any_kind_are_a_sentence(tmp_path):
    good = {"images": np.full((9, 8, 8), 9, np.uint8), "targets": np.arange(9) % 3}
    several = {"targets": np.eye(9, 5, dtype=int)}
    for changed, said in (
        ({"images": np.uint8(3)}, "give"),
        ({"images": np.full((9, 8, 8), "a")}, "give bytes"),
        ({"targets": np.full(9, "a")}, "give each image its class's number, or its labels"),
        ({"targets": np.int64(0)}, "one int64 label"),
        ({"targets": np.eye(8, 5)}, "one int64 label"),
        ({"test": np.arange(2)}, "give a number of the last images"),
        ({"test": -1}, "give a number of the last images"),
        ({"test": 9}, "give a number of the last images"),
        ({"classes": np.array("abc")}, "give a name for each class"),
        ({**several, "classes": ["a"]}, "1 names of 5 labels; give each a name"),
    ):
        np.savez(tmp_path / "odd.npz", **{**good, **changed})
        with pytest.raises(DataError, match=said):
            load_images(tmp_path / "odd.npz")
    np.savez_compressed(tmp_path / "odd.npz", **good)
    whole = (tmp_path / "odd.npz").read_bytes()
    refused = []
    for place in range(30, len(whole), 10):
        (tmp_path / "odd.npz").write_bytes(whole[:place] + b"odd" + whole[place + 3 :])
        try:
            assert len(load_images(tmp_path / "odd.npz")) == 9
        except DataError as error:
            refused.append(str(error))
    assert sum("give a file that numpy.savez wrote" in said for said in refused) > 20


def test_splits_that_do_not_exist_are_refused():
    data = HashImages.from_arrays(np.zeros((30, 8, 8), np.uint8), np.arange(30) % 3)
    with pytest.raises(ConfigurationError, match="choose one of cifar10, cifar10-1"):
        split_images(data, "cifar")
    with pytest.raises(ConfigurationError, match="is of cifar10 and the data are arrays"):
        split_images(data, "cifar10-1")
    with pytest.raises(DataError, match="has 10"):
        split_images(data)
