"""Packages that only a part of advreg needs: imported when that part is used, or named."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from advreg.errors import MissingExtraError


def require(name: str, *, extra: str, what: str) -> ModuleType:
    """Imports a package that an extra of advreg brings.

    Args:
        name: The module, such as "matplotlib" or "lightning.pytorch".
        extra: The extra of advreg whose packages hold it.
        what: What needs it, as the subject of a sentence: "the Lightning callback".

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed, or stops as it is imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package, root = name.partition(".")[0], (error.name or "").partition(".")[0]
        absent = isinstance(error, ModuleNotFoundError) and root == package
        state = "which is not installed" if absent else f"whose import stops ({error})"
        what = what[:1].upper() + what[1:]
        raise MissingExtraError(
            f'{what} needs {package}, {state}; run: pip install "advreg[{extra}]"'
        ) from error
