"""Opening an image file that may be a stranger's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advreg.errors import DataError
from advreg.extras import needs

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_DEEP = ("I", "F")
"""Modes of Pillow with more than a byte a pixel; converting them would clip."""


@cache
def formats() -> list[str]:
    """What files are opened as whatever their names say: of an EPS file Pillow runs a program."""
    with needs("data", "reading images"):
        from PIL import features

    return ["PNG", "JPEG", "BMP", *(["WEBP"] if features.check("webp") else [])]


@contextmanager
def opened(file: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An image whose header has been read; reading its pixels may fail here too.

    Args:
        file: A path, or the contents of an image file.
        name: For messages.

    Raises:
        DataError: It cannot be read, has more than 8 bits a channel or transparent pixels, or is
            far too large: within `large_images_refused` as Pillow warns of it, without it at twice
            that.
    """
    with needs("data", "reading images"):
        from PIL import Image
    try:
        source = file if isinstance(file, Path) else BytesIO(file)
        with Image.open(source, formats=formats()) as image:
            # Of colours at sixteen bits only the decoder's instructions say so.
            deep = any(";16B" in str(tile[3]) for tile in image.tile)
            if deep or image.mode.startswith(_DEEP):
                raise DataError(f"{name} has more than 8 bits a channel; convert it to 8 bits.")
            if "A" in image.getbands() and np.asarray(image.getchannel("A")).min() < 255:
                raise DataError(
                    f"{name} has transparent pixels, whose colours are anybody's guess; save it on"
                    " a ground of one colour."
                )
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{name} claims to have more pixels than {Image.MAX_IMAGE_PIXELS:,}; make it smaller or"
            " remove it."
        ) from error
    except Exception as error:  # Pillow's decoders raise of every kind for a broken file
        raise DataError(
            f"{name} cannot be read as a PNG, JPEG, BMP or WebP image; repair or remove it."
        ) from error


@contextmanager
def large_images_refused() -> Iterator[None]:
    """Makes errors of Pillow's warnings, in every thread: what warns of one is not thread-safe."""
    with needs("data", "reading images"):
        from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
