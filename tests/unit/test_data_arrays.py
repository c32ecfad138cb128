"""Arrays of NumPy, and images that are kept on the disk."""

import struct
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from advreg import files
from advreg.data import Columns, ImageData, Loader, identify, load_data, mapped
from advreg.data.mapped import allocate, is_mapped
from advreg.errors import DataError


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    return {"images": images, "targets": np.arange(40) % 4}


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Nothing fits into memory."""
    monkeypatch.setattr(mapped, "free_memory", lambda: 0)
    monkeypatch.setenv("ADVREG_CACHE", str(tmp_path / "cache"))


def rows(splits):
    """All images and labels, in an order that no split changes."""
    parts = (splits.train, splits.validation, splits.test)
    pixels = torch.cat([part.images.flatten(1) for part in parts])
    labels = torch.cat([part.targets for part in parts])
    return sorted(
        (*image, label) for image, label in zip(pixels.tolist(), labels.tolist(), strict=True)
    )


def test_what_unpacks_to_more_than_there_is_is_not_unpacked(arrays, tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{**arrays, "images": np.zeros((40, 3, 80, 80), np.uint8)})
    monkeypatch.setattr(files, "all_memory", lambda: 40 * 3 * 80 * 80)
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(DataError, match="needs more memory than there is"):
        load_data(path)


def test_a_file_and_a_folder_of_arrays_hold_the_same(arrays, tmp_path):
    np.savez(tmp_path / "birds.npz", **arrays, classes=["a", "b", "c", "d"])
    folder = tmp_path / "birds"
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    file, mapped_files = load_data(tmp_path / "birds.npz"), load_data(folder)
    assert file.name == mapped_files.name == "birds"
    assert file.train.classes == ("a", "b", "c", "d")
    assert (len(file.train), len(file.validation), len(file.test)) == (29, 3, 8)
    assert rows(file) == rows(mapped_files)
    wanted = sorted(
        (*image.flatten().tolist(), label)
        for image, label in zip(arrays["images"], arrays["targets"].tolist(), strict=True)
    )
    assert rows(file) == wanted
    assert identify(tmp_path / "birds.npz") is None


def test_keras_names_channels_last_and_a_test_split_of_its_own(arrays, tmp_path):
    last = arrays["images"].transpose(0, 2, 3, 1)
    np.savez(
        tmp_path / "keras.npz",
        x_train=last[:30],
        y_train=arrays["targets"][:30, None],
        x_test=last[30:],
        y_test=arrays["targets"][30:, None],
    )
    found = load_data(tmp_path / "keras.npz")
    assert found.test.images.equal(torch.from_numpy(arrays["images"][30:]))
    assert found.test.targets.equal(torch.from_numpy(arrays["targets"][30:]))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"targets": np.arange(39) % 4}, "give one label for each image"),
        ({"targets": np.arange(40) / 3}, "not whole numbers"),
        ({"images": np.full((40, 3, 8, 8), 7.0)}, r"scale them to \[0, 1\]"),
        ({"images": np.zeros((40, 3, 8, 8), np.uint16)}, "give bytes"),
        ({"images": np.array([{}] * 40, dtype=object)}, "without Python objects"),
        ({"targets": None}, "give images and targets"),
    ],
)
def test_arrays_that_are_not_as_they_should_be(arrays, tmp_path, changed, said):
    kept = {name: value for name, value in {**arrays, **changed}.items() if value is not None}
    np.savez(tmp_path / "odd.npz", **kept)
    with pytest.raises(DataError, match=said):
        load_data(tmp_path / "odd.npz")


def header(shape, kind="|u1"):
    """An .npy file of a header alone, which may claim what it likes."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


ODD = {
    "longdouble": ({"images": np.zeros((40, 8, 8), np.longdouble)}, "give bytes"),
    "text": ({"images": np.full((40, 8, 8), "a")}, "Images are no numbers .*; give bytes"),
    "struct": ({"images": np.zeros((40, 8, 8), [("a", "u1")])}, "give bytes"),
    "dates": ({"images": np.zeros((40, 8, 8), "M8[s]")}, "give bytes"),
    "no images": ({"images": np.uint8(3), "targets": np.int64(0)}, "give at least one"),
    "labels of text": ({"targets": np.full(40, "a")}, "give each image its class's number"),
    "labels of dates": ({"targets": np.zeros(40, "M8[s]")}, "give each image its class's"),
    "one name": ({"classes": np.array("ab")}, "give a name for each class"),
    "names of dates": ({"classes": np.zeros(4, "M8[s]")}, "give a name for each class"),
    "few names": ({"classes": ["a"]}, "number of classes is 1; give labels from 0 to 0"),
    "half a test": ({"test_images": np.zeros((9, 3, 8, 8))}, "without test_targets; give test_im"),
    "the other half": ({"y_val": np.zeros(9)}, "without x_val; give x_val and y_val, or neither"),
    "bytes from 0 to 1": ({"images": np.ones((40, 8, 8), np.uint8)}, r"floats in \[0, 1\]"),
}


@pytest.mark.parametrize("place", ["odd.npz", "odd"])
@pytest.mark.parametrize("case", ODD)
def test_arrays_of_any_kind_are_a_sentence(arrays, tmp_path, case, place):
    changed, said = ODD[case]
    if place == "odd":
        (tmp_path / "odd").mkdir()
        for name, array in {**arrays, **changed}.items():
            np.save(tmp_path / "odd" / f"{name}.npy", array)
    else:
        np.savez(tmp_path / "odd.npz", **{**arrays, **changed})
    with pytest.raises(DataError, match=said):
        load_data(tmp_path / place)


@pytest.mark.parametrize("kept", ["npz", "npy"])
def test_the_other_order_of_bytes_is_the_same(arrays, tmp_path, kept):
    arrays["images"] = arrays["images"][:, 0] / 255
    turned = {name: array.astype(array.dtype.newbyteorder()) for name, array in arrays.items()}
    if kept == "npz":
        np.savez(tmp_path / "turned.npz", **turned)
    else:
        for name, array in turned.items():
            np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "given.npz", **arrays)
    found = load_data(tmp_path / "turned.npz" if kept == "npz" else tmp_path)
    assert rows(found) == rows(load_data(tmp_path / "given.npz"))
    back = ImageData.from_arrays(arrays["images"][::-1], arrays["targets"][::-1])
    assert back.targets.tolist() == arrays["targets"][::-1].tolist()


def test_headers_that_claim_too_much_and_members_of_other_kinds_are_a_sentence(arrays, tmp_path):
    np.savez_compressed(tmp_path / "good.npz", **arrays)
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "odd.npz").write_bytes(whole[:2000] + b"0123456789" + whole[2010:])
    np.save(tmp_path / "one.npy", arrays["images"])
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    members = {"large": header((10**18,)), "member": b"no array", "text": header((3,), "O")}
    for name, contents in members.items():
        with ZipFile(tmp_path / f"{name}.npz", "w") as file:
            file.writestr("images.npy", contents)
            file.writestr("targets.npy", contents)
    for name in ("odd", "one", *members):
        with pytest.raises(DataError, match=r"give files that numpy.save|give a folder of .npy"):
            load_data(tmp_path / f"{name}.npz")
    for contents in (header((10**19,)), header((10**12,)), header((3,), "O"), b"", b"no array"):
        (tmp_path / "images.npy").write_bytes(contents)
        with pytest.raises(DataError, match=r"give files that numpy.save"):
            load_data(tmp_path)


def test_a_damaged_file_is_a_sentence(tmp_path):
    (tmp_path / "odd.npz").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(DataError, match=r"numpy\.savez"):
        load_data(tmp_path / "odd.npz")
    with pytest.raises(DataError, match="There is no data set"):
        load_data("x" * 5000)


def test_a_tree_of_classes_without_a_split(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(10):
            Image.new("L", (8, 9), number).save(tmp_path / label / f"{number}.png")
    found = load_data(tmp_path, validation=2)
    assert found.train.classes == ("cat", "dog")
    assert (len(found.train), len(found.validation), len(found.test)) == (14, 2, 4)
    assert found.train.shape == (1, 9, 8)


def test_columns_of_other_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [{"bytes": png(number), "path": None} for number in range(20)]
    table = datasets.Dataset.from_dict({"picture": pictures, "kind": [n % 2 for n in range(20)]})
    table.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"picture, kind and no img or image; .*image_column"):
        load_data(tmp_path)
    found = load_data(tmp_path, image_column="picture", label_column="kind")
    assert identify(tmp_path, Columns("picture", "kind")) is None
    assert len(found.train) + len(found.validation) + len(found.test) == 20


def png(number):
    from io import BytesIO

    buffer = BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 255 - number)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("augment", ["none", "crop", "cutout", "crop_flip+cutout"])
def test_what_lies_on_the_disk_is_the_same(arrays, tmp_path, on_disk, augment):
    data = ImageData.from_arrays(arrays["images"], arrays["targets"])
    far = data.select(torch.arange(40))
    assert is_mapped(far.images)
    assert not is_mapped(data.images)
    assert list((tmp_path / "cache").iterdir()) == []  # the file has no name: nothing stays
    assert far.images.equal(data.images)
    assert far.statistics() == data.statistics()
    near, other = (Loader(one, 16, augment=augment, seed=3).epoch(2) for one in (data, far))
    copies = [(batch.inputs.clone(), batch.targets.clone()) for batch in near]
    # All mini-batches at once: none may lie in another's memory.
    for (inputs, targets), batch in zip(copies, list(other), strict=True):
        assert inputs.equal(batch.inputs)
        assert targets.equal(batch.targets)


def test_image_files_are_decoded_onto_the_disk(tmp_path, on_disk):
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 9), (number, 9, 7)).save(tmp_path / f"data/{label}/{number}.png")
    found = load_data(tmp_path / "data", validation=2)
    assert is_mapped(found.train.images)
    reds = torch.cat([part.images[:, 0, 0, 0] for part in (found.train, found.validation)])
    assert sorted([*reds.tolist(), *found.test.images[:, 0, 0, 0].tolist()]) == sorted(
        [*range(10), *range(10)]
    )


def test_a_disk_without_room_is_a_sentence(on_disk, tmp_path):
    with pytest.raises(DataError, match=r"no room.*ADVREG_CACHE"):
        allocate((2**40, 3, 8, 8))
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="ADVREG_CACHE"):
        allocate((2, 3, 8, 8))
