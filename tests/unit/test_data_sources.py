from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from advreg.data import load_data
from advreg.errors import DataError

CLASSES = ("bird", "cat", "dog")


def picture(number, shape=(6, 5, 3)):
    pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(number, shape=(6, 5, 3)):
    buffer = BytesIO()
    picture(number, shape).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, labels, images=None, names=("img", "label"), classes=CLASSES):
    from datasets import ClassLabel, Features, Value
    from datasets import Image as ImageFeature

    path.parent.mkdir(parents=True, exist_ok=True)
    images = images or [encoded(number) for number in range(len(labels))]
    label = ClassLabel(names=list(classes)) if classes else Value("int64")
    schema = Features({names[0]: ImageFeature(), names[1]: label}).arrow_schema
    column = [{"bytes": image, "path": None} for image in images]
    pq.write_table(pa.table([column, labels], schema=schema), path)


def pixels(data, index):
    return data.images[index].permute(1, 2, 0).numpy()


@pytest.fixture
def parquet(tmp_path):
    folder = tmp_path / "birds"
    write_parquet(folder / "train-00000-of-00002.parquet", [0, 1, 2] * 5)
    write_parquet(folder / "train-00001-of-00002.parquet", [0, 1, 2] * 5)
    write_parquet(folder / "test-00000-of-00001.parquet", [2, 1])
    return folder


def test_digits_have_a_fixed_half_for_testing():
    first, second = load_data("digits", limit=128), load_data("digits", seed=9, validation=300)
    assert (len(first.train), len(first.validation), len(first.test)) == (128, 90, 899)
    assert (len(second.train), len(second.validation), len(second.test)) == (598, 300, 899)
    assert torch.equal(first.test.images, second.test.images)
    assert first.train.shape == (1, 8, 8)
    assert first.train.classes == tuple("0123456789")
    counts = first.train.targets.bincount()
    assert counts.max() - counts.min() <= 2
    assert abs(first.test.targets.bincount() - 89.9).max() <= 3


def test_digits_keep_sixteenths_as_closely_as_bytes_allow():
    splits = load_data("digits")
    parts = (splits.train, splits.validation, splits.test)
    ours = torch.cat([part.images for part in parts]).flatten(1)
    original = torch.from_numpy(load_digits().data) / 16
    assert len(ours) == len(original) == 1797
    # As sets of rows: every image is there once, whatever its split.
    rounded = (ours / 255 * 16).round().to(torch.int64)
    expected = (original * 16).to(torch.int64)
    assert sorted(map(tuple, rounded.tolist())) == sorted(map(tuple, expected.tolist()))
    levels = torch.tensor([round(k * 255 / 16) for k in range(17)])
    assert torch.equal(ours.unique().long(), levels)


def test_splits_are_disjoint_and_depend_on_the_seed():
    def rows(data):
        return {bytes(image.numpy().tobytes()) for image in data.images}

    splits = load_data("digits", limit=200)
    assert not rows(splits.train) & rows(splits.validation)
    assert not (rows(splits.train) | rows(splits.validation)) & rows(splits.test)
    again, other = load_data("digits", limit=200), load_data("digits", limit=200, seed=1)
    assert torch.equal(splits.train.images, again.train.images)
    assert not torch.equal(splits.train.images, other.train.images)
    assert rows(splits.validation) != rows(other.validation)


def test_limit_leaves_validation_alone():
    whole, few = load_data("digits"), load_data("digits", limit=20)
    assert torch.equal(whole.validation.images, few.validation.images)
    with pytest.raises(DataError, match=r"808 training images are left .* from 1 to 808"):
        load_data("digits", limit=809)


def test_parquet(parquet):
    splits = load_data(parquet, validation=3)
    assert splits.name == "birds"
    assert splits.train.classes == CLASSES
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (27, 3, 2)
    assert splits.validation.targets.sort().values.tolist() == [0, 1, 2]
    assert splits.test.targets.tolist() == [2, 1]
    for index in (0, 1):
        assert np.array_equal(pixels(splits.test, index), np.asarray(picture(index)))


def test_parquet_limit_decodes_nothing_else(parquet, monkeypatch):
    decoded = []
    original = Image.Image.convert
    monkeypatch.setattr(
        Image.Image, "convert", lambda image, mode: decoded.append(image) or original(image, mode)
    )
    load_data(parquet, validation=3, limit=4)
    assert len(decoded) == 3 + 4 + 2


def test_parquet_in_data_with_other_names_and_without_class_names(tmp_path):
    place = tmp_path / "data" / "train-00000-of-00001.parquet"
    write_parquet(place, [0, 1] * 10, names=("image", "fine_label"), classes=None)
    splits = load_data(tmp_path)
    assert splits.train.classes == ("0", "1")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (14, 2, 4)
    assert torch.equal(splits.test.images, load_data(tmp_path, seed=5).test.images)


def test_parquet_keeps_its_own_validation_split(parquet):
    write_parquet(parquet / "validation-00000-of-00001.parquet", [1, 1, 0, 2])
    splits = load_data(parquet, validation=10)
    assert splits.validation.targets.tolist() == [1, 1, 0, 2]
    assert len(splits.train) == 30


@pytest.mark.parametrize(
    ("file", "settings", "mend"),
    [
        ("train-00000-of-00002", {"labels": [0, 1, 3]},
         r"train-.*parquet: labels run from 0 to 3, .* classes is 3"),
        ("train-00000-of-00002", {"labels": [0, -1, 2]}, r"parquet: labels run from -1 to 2"),
        ("test-00000-of-00001", {"labels": [3]}, r"test-.*parquet: labels run from 3 to 3"),
        ("train-00000-of-00002", {"labels": [0, None]}, "1 missing; give every image"),
        ("test-00000-of-00001", {"labels": [0], "names": ("picture", "label")},
         "no img or image; name the right one with --data.image_column"),
        ("test-00000-of-00001", {"labels": [0], "images": [b"no image"]},
         "Image 0 of .*test-00000-of-00001.parquet cannot be read"),
        ("test-00000-of-00001", {"labels": [0], "images": [encoded(0)[:60]]}, "cannot be read"),
        ("test-00000-of-00001", {"labels": [0], "images": [encoded(0, (7, 5, 3))]},
         "same size, channels and classes"),
        ("test-00000-of-00001", {"labels": [0, 1], "images": [encoded(0), encoded(0, (7, 5, 3))]},
         "has 7x5 pixels where the first one has 6x5; bring all images to one size"),
        ("test-00000-of-00001", {"labels": []}, "has no images for one of the splits; add some"),
    ],
)  # fmt: skip
def test_parquet_that_is_not_as_it_should_be(parquet, file, settings, mend):
    classes = None if None in settings["labels"] or -1 in settings["labels"] else CLASSES
    write_parquet(parquet / f"{file}.parquet", **{"classes": classes, **settings})
    with pytest.raises(DataError, match=mend):
        load_data(parquet, validation=3)


def test_parquet_label_that_is_text_is_refused(parquet):
    column = pa.array([{"bytes": encoded(0), "path": None}])
    pq.write_table(
        pa.table({"img": column, "label": ["bird"]}), parquet / "test-00000-of-00001.parquet"
    )
    with pytest.raises(DataError, match=r"'label' .* holds string values"):
        load_data(parquet)


def test_parquet_without_image_files_is_refused(parquet):
    table = pa.table({"img": [[1, 2, 3]], "label": [0]})
    pq.write_table(table, parquet / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="give image files as bytes"):
        load_data(parquet)


def test_parquet_file_missing_or_damaged(parquet):
    (parquet / "test-00000-of-00001.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read as parquet; fetch it again"):
        load_data(parquet)
    (parquet / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"has 1 of 2 files train-.*; add the rest"):
        load_data(parquet)


def test_a_parquet_file_sorted_by_class_is_mixed_for_testing(parquet):
    write_parquet(parquet / "test-00000-of-00001.parquet", [0] * 10 + [1] * 10 + [2] * 10)
    assert load_data(parquet).test.targets[:6].bincount().tolist() == [2, 2, 2]


def test_unknown_source_lists_what_there_is(tmp_path):
    with pytest.raises(DataError, match="'cifar11'; choose one of digits, cifar10, cifar100, mnis"):
        load_data("cifar11")
    with pytest.raises(DataError, match=r"holds no images that can be read"):
        load_data(tmp_path)
