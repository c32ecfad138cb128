"""Hooks that stay with the network they were put on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hook:
    """A hook that a copy of its module does not inherit.

    Args:
        call: The hook itself.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        """What the hook returns."""
        return self._call(*args)

    def __reduce__(self) -> tuple[type[Inert], tuple[()]]:
        return Inert, ()


class Inert:
    """What is left of a `Hook` in a copied or pickled network; it changes nothing."""

    def __call__(self, *args: Any) -> None:
        """Leaves inputs and outputs as they are."""
