"""Networks without their wrappers, and which adversary each of them has."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from torch import nn

from advreg import _torch_compat
from advreg.errors import AttachmentError, UnsupportedError


class Attachable(Protocol):
    """What the registry of attached networks needs of an adversary."""

    def detach(self) -> None:
        """Takes the adversary off its network."""

    def paused(self) -> AbstractContextManager[None]:
        """Leaves the network alone for a while."""


def unwrap_model(model: nn.Module) -> nn.Module:
    """The network inside a compiled or data-parallel wrapper.

    Raises:
        UnsupportedError: The network cannot be perturbed rightly: sharded, scripted, replicated.
        AttachmentError: It is no network.
    """
    if not isinstance(model, nn.Module):
        raise AttachmentError(f"attach takes an nn.Module, not a {type(model).__name__}.")
    if _is_torchs(model, "OptimizedModule"):
        return unwrap_model(_torch_compat.compiled_from(model))
    if _is_torchs(model, "DistributedDataParallel"):
        return unwrap_model(model.module)  # type: ignore[arg-type]
    sharded = any(type(parameter).__name__ == "DTensor" for parameter in model.parameters())
    if sharded or any(_is_torchs(module, "FullyShardedDataParallel") for module in model.modules()):
        raise UnsupportedError(
            "A network with sharded parameters cannot be attached to; use DistributedDataParallel."
        )
    if _is_torchs(model, "DataParallel"):
        raise UnsupportedError(REPLICATED)
    if _is_torchs(model, "ScriptModule"):
        raise UnsupportedError("A scripted network cannot be attached to; attach to its source.")
    return model


def _is_torchs(module: nn.Module, name: str) -> bool:
    """Whether a module is of a class of torch's, which need not have been imported."""
    kinds = type(module).__mro__
    return any(kind.__name__ == name and kind.__module__.startswith("torch.") for kind in kinds)


REPLICATED = (
    "nn.DataParallel copies the network in every step, which loses the memories;"
    " use DistributedDataParallel."
)

_attached: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Attachable]] = (
    weakref.WeakKeyDictionary()
)


def register_adversary(network: nn.Module, adversary: Attachable | None) -> None:
    """Notes which adversary a network has."""
    if adversary is None:
        _attached.pop(network, None)
    else:
        _attached[network] = weakref.ref(adversary)


def adversary_of(network: nn.Module) -> Attachable | None:
    """The adversary attached to a network without a wrapper, or None."""
    reference = _attached.get(network)
    return None if reference is None else reference()


@contextmanager
def paused(model: nn.Module) -> Iterator[None]:
    """Pauses whichever adversary is attached to a network, if one is.

    For the extra passes of attacks and methods, which know the network and not its adversary.
    """
    adversary = _attached_to(model)
    if adversary is None:
        yield
    else:
        with adversary.paused():
            yield


def detach(model: nn.Module) -> None:
    """Detaches whichever adversary is attached to a network, if one is.

    For a network whose handle and adversary were lost.
    """
    adversary = _attached_to(model)
    if adversary is not None:
        adversary.detach()


def _attached_to(model: nn.Module) -> Attachable | None:
    try:
        return adversary_of(unwrap_model(model))
    except UnsupportedError:  # of a kind that none can be attached to
        return None
