"""Image files to index and to search with, which may be a stranger's."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from test_data_folders import bomb, deep_colour_image, deep_image, large_image, postscript

from advreg.errors import DataError
from advreg.hashing.gallery import Gallery, image_files, index_folder, read_image
from advreg.report import hashing as page

SOURCE = Path(page.__file__).parents[1]
SHAPE = (3, 4, 4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "test" / "cat").mkdir(parents=True)
    # Pillow's way to run Ghostscript, which must not be taken.
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given: pytest.fail("ran"))
    return tmp_path


@pytest.mark.parametrize(
    ("damage", "mend"),
    [
        (postscript, "cannot be read as a PNG, JPEG, BMP or WebP image; repair or remove it"),
        (deep_image, "has more than 8 bits a channel; convert it"),
        (deep_colour_image, "has more than 8 bits a channel; convert it"),
        (bomb, "claims to have more pixels than .*; make it smaller or remove it"),
        (large_image, "claims to have more pixels than .*; make it smaller or remove it"),
    ],
)
def test_image_files_of_strangers_are_refused(folder, damage, mend):
    damage(folder)
    path = folder / "test" / "cat" / "1.png"
    run = SimpleNamespace(image_shape=SHAPE)
    for read in (
        lambda: read_image(path, SHAPE),
        lambda: Gallery(run).load([str(path)]),
        lambda: index_folder(run, folder),
    ):
        with pytest.raises(DataError, match=mend):
            read()


def test_a_file_that_is_not_there_is_named(tmp_path):
    for name in ("no.png", "x" * 5000, "a\0b"):
        with pytest.raises(DataError, match=r"There is no file .*; name an image file"):
            read_image(tmp_path / name, SHAPE)


def test_the_middle_square_is_read_of_files_that_are_opened_alone(tmp_path):
    picture = Image.new("RGB", (8, 4), (9, 8, 7))
    picture.putpixel((0, 0), (255, 255, 255))
    picture.save(tmp_path / "wide.png")
    picture.save(tmp_path / "moving.gif")
    assert [path.name for path in image_files(tmp_path)] == ["wide.png"]
    found = read_image(tmp_path / "wide.png", SHAPE)
    assert torch.equal(
        found, torch.tensor([9, 8, 7], dtype=torch.uint8)[:, None, None].expand(SHAPE)
    )


def test_a_picture_of_the_hashing_page_is_opened_as_an_image_alone(folder, monkeypatch):
    monkeypatch.setattr(page, "LARGE", 10)
    postscript(folder)
    with pytest.raises(DataError, match="cannot be read as a PNG"):
        page._address(folder / "test" / "cat" / "1.png")


def test_images_are_opened_nowhere_as_whatever_they_are():
    calls = [
        call
        for path in SOURCE.rglob("*.py")
        for call in re.findall(r"Image\.open\(.*", path.read_text(encoding="utf-8"))
    ]
    assert calls
    assert all("formats=" in call for call in calls)
