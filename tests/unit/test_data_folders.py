"""Images in folders, and which known data set some data are."""

import struct
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_sources import CLASSES, encoded, picture, pixels, write_parquet

from advreg.data import identify, load_data
from advreg.errors import DataError, SkippedFilesWarning


@pytest.fixture
def pictures(tmp_path):
    for split, count in (("train", 10), ("test", 2)):
        for label in CLASSES:
            place = tmp_path / split / label
            place.mkdir(parents=True)
            for number in range(count):
                picture(number).save(place / f"{number}.png")
    return tmp_path


def grey_folder(folder, *splits):
    for split in splits:
        for label in "ab":
            (folder / split / label).mkdir(parents=True)
            for number in range(10):
                picture(number, (6, 5)).save(folder / split / label / f"{number}.png")


def test_image_folder(pictures):
    splits = load_data(pictures, validation=3)
    assert splits.train.classes == CLASSES
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (27, 3, 6)
    assert splits.train.shape == (3, 6, 5)
    # Not class by class: the first test images stand for all.
    assert sorted(splits.test.targets[:3].tolist()) == [0, 1, 2]
    assert torch.equal(splits.test.targets, load_data(pictures, seed=5).test.targets)
    expected = Counter(picture(number).tobytes() for number in (0, 1))
    found = Counter(pixels(splits.test, index).tobytes() for index in range(6))
    assert found == dict.fromkeys(expected, 3)


@pytest.mark.parametrize(("split", "seed"), [("train", 0), ("test", 1)])
def test_one_colour_image_among_grey_ones_makes_the_source_coloured(tmp_path, split, seed):
    grey_folder(tmp_path, "train", "test")
    assert load_data(tmp_path, limit=3, seed=seed).train.shape == (1, 6, 5)
    picture(0).save(tmp_path / split / "a" / "0.png")
    splits = load_data(tmp_path, limit=3, seed=seed)
    assert splits.train.shape == splits.validation.shape == splits.test.shape == (3, 6, 5)
    grey = np.repeat(np.asarray(picture(1, (6, 5)))[:, :, None], 3, axis=2)
    assert any(np.array_equal(pixels(splits.test, index), grey) for index in range(20))


def test_image_folder_of_grey_images_with_its_own_validation(tmp_path):
    grey_folder(tmp_path, "train", "validation")
    splits = load_data(tmp_path)
    assert splits.train.shape == (1, 6, 5)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 20, 4)


def empty_class(folder):
    (folder / "train" / "fish").mkdir()


def unknown_class(folder):
    (folder / "test" / "fish").mkdir()


def no_images(folder):
    for file in folder.glob("test/*/*.png"):
        file.rename(file.with_suffix(".txt"))


def no_classes(folder):
    (folder / "train").rename(folder / "elsewhere")
    (folder / "train").mkdir()


def broken_image(folder):
    (folder / "test" / "cat" / "1.png").write_bytes(encoded(1)[:70])


def deep_image(folder):
    Image.fromarray(np.zeros((6, 5), dtype=np.uint16)).save(folder / "test" / "cat" / "1.png")


def deep_colour_image(folder):
    """Sixteen bits a channel, which Pillow calls RGB and would cut to eight without a word."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress((b"\0" + bytes(5 * 6)) * 6)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    (folder / "test" / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def bomb(folder):
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    broken = encoded(1).replace(encoded(1)[16:29], header)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (folder / "test" / "cat" / "1.png").write_bytes(broken[:29] + crc + broken[33:])


def large_image(folder):
    Image.new("1", (12000, 8000)).save(folder / "test" / "cat" / "1.png")


def transparent_image(folder):
    image = Image.open(folder / "test" / "cat" / "1.png").convert("RGBA")
    image.save(folder / "test" / "cat" / "1.png")
    load_data(folder)  # opaque, it is as good as any
    image.putpixel((0, 0), (1, 2, 3, 254))
    image.save(folder / "test" / "cat" / "1.png")


def postscript(folder):
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n%%EndComments\nshowpage\n%%EOF\n"
    (folder / "test" / "cat" / "1.png").write_bytes(text)


@pytest.mark.parametrize(
    ("damage", "mend"),
    [
        (empty_class, "train/fish holds no images; add some, or remove the folder"),
        (unknown_class, "test/fish is a class without training images"),
        (no_images, "test holds no images; put them into"),
        (no_classes, "holds no images that can be read; give a folder of"),
        (
            broken_image,
            "test/cat/1.png cannot be read as a PNG, JPEG, BMP or WebP image; rep",
        ),
        (postscript, "test/cat/1.png cannot be read as a PNG"),
        (deep_image, "test/cat/1.png has more than 8 bits a channel; convert it"),
        (deep_colour_image, "test/cat/1.png has more than 8 bits a channel; convert it"),
        (transparent_image, "test/cat/1.png has transparent pixels"),
        (bomb, "test/cat/1.png claims to have more pixels than"),
        (large_image, "test/cat/1.png claims to have more pixels than"),
    ],
)
def test_image_folder_that_is_not_as_it_should_be(pictures, damage, mend, monkeypatch):
    damage(pictures)
    # Pillow's way to run Ghostscript, which must not be taken.
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given: pytest.fail("ran"))
    with pytest.raises(DataError, match=mend):
        load_data(pictures)


def test_what_is_not_used_is_counted_and_said(pictures):
    for number in range(3):
        picture(number).save(pictures / "train" / "cat" / f"{number}.gif")
    picture(9).save(pictures / "train" / "cat" / "9.webp", lossless=True)
    (pictures / "train" / "dog" / "more").mkdir()
    (pictures / "train" / "dog" / ".hidden").touch()
    with pytest.warns(SkippedFilesWarning, match=r"beside 31 images, .*\(4 in all\), .*0\.gif"):
        splits = load_data(pictures)
    assert len(splits.train) + len(splits.validation) == 30 + 1  # the WebP image is used


def test_one_image_is_too_few(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    picture(0).save(tmp_path / "train" / "a" / "0.png")
    with pytest.raises(DataError, match="would leave nothing of 0 training images"):
        load_data(tmp_path)


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_a_data_set_is_known_by_what_is_in_it(tmp_path):
    for number, (classes, shape, known) in enumerate(
        (
            (CIFAR10, (32, 32, 3), "cifar10"),
            (CIFAR10[::-1], (32, 32, 3), "cifar10"),
            (CIFAR10, (64, 64, 3), None),
            (CIFAR10, (32, 32), None),
            (CIFAR10[:9], (32, 32, 3), None),
            (tuple("0123456789"), (28, 28), "mnist"),
            (tuple("0123456789"), (32, 32, 3), "svhn"),
            (None, (32, 32, 3), None),
        )
    ):
        images = [encoded(number, shape) for number in range(3)]
        folder = tmp_path / str(number) / "cifar10"  # whatever it is
        path = folder / "train-00000-of-00001.parquet"
        write_parquet(path, [0, 1, 2], images, classes=classes)
        assert identify(folder) == known


def test_an_image_folder_is_known_too(tmp_path):
    for label in CIFAR10:
        (tmp_path / "train" / label).mkdir(parents=True)
        picture(0, (32, 32, 3)).save(tmp_path / "train" / label / "0.png")
    assert identify(tmp_path) == "cifar10"
    assert identify("svhn") == "svhn"  # its own name is enough, wherever it may be
    with pytest.raises(DataError, match="no data set, folder or file"):
        identify(tmp_path / "nothing")
