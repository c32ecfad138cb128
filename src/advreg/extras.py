"""Packages that only a part of advreg needs: imported when that part is used, or named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from advreg.errors import MissingExtraError


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports of packages that an extra of advreg brings.

    Args:
        extra: The extra.
        what: What needs them, as the subject of a sentence: "the Lightning callback".

    Raises:
        MissingExtraError: One is not installed, or stops as it is imported.
    """
    try:
        yield
    except MissingExtraError:  # of a part below, which knows its own extra
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and package
        state = (
            f"{package}, which is not installed" if absent else f"an import that stops ({error})"
        )
        raise MissingExtraError(
            f'{what[:1].upper()}{what[1:]} needs {state}; run: pip install "advreg[{extra}]"'
        ) from error


def require(name: str, *, extra: str, what: str) -> ModuleType:
    """Imports a package that an extra of advreg brings.

    Args:
        name: The module, such as "matplotlib" or "lightning.pytorch".
        extra: As of `needs`.
        what: As of `needs`.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed, or stops as it is imported.
    """
    with needs(extra, what):
        return import_module(name)
