"""Which adversary is attached to which network."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from torch import nn

from advreg.errors import UnsupportedError
from advreg.layerwise.attachment import unwrap_model


class Pausable(Protocol):
    """What the registry needs to know of an adversary."""

    def paused(self) -> AbstractContextManager[None]:
        """Leaves the network alone for a while."""


_attached: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Pausable]] = weakref.WeakKeyDictionary()


def enter(network: nn.Module, adversary: Pausable) -> None:
    """Notes that an adversary is attached."""
    _attached[network] = weakref.ref(adversary)


def leave(network: nn.Module) -> None:
    """Notes that none is attached any more."""
    _attached.pop(network, None)


def adversary_of(network: nn.Module) -> Pausable | None:
    """The adversary attached to a bare network, or None."""
    reference = _attached.get(network)
    return None if reference is None else reference()


@contextmanager
def paused(model: nn.Module) -> Iterator[None]:
    """Pauses whichever adversary is attached to a network, if one is.

    For the extra passes of attacks and methods, which know the network and not its adversary.
    """
    try:
        adversary = adversary_of(unwrap_model(model))
    except UnsupportedError:  # of a kind that none can be attached to
        adversary = None
    if adversary is None:
        yield
    else:
        with adversary.paused():
            yield
