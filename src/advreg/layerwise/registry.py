"""Networks without their wrappers, and which adversary each of them has."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

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
    refuse_sharded(model)
    if _is_torchs(model, "DataParallel"):
        raise UnsupportedError(REPLICATED)
    if _is_torchs(model, "ScriptModule"):
        raise UnsupportedError("A scripted network cannot be attached to; attach to its source.")
    return model


def refuse_sharded(network: nn.Module) -> None:
    """Refuses parameters that are sharded in another way than by `fully_shard`.

    Under `fully_shard` every module computes with its whole parameters on its rank's own examples,
    as under DistributedDataParallel, so that each rank's memories are right.

    Raises:
        UnsupportedError: The network is sharded by tensor parallelism, or by the older
            FullyShardedDataParallel, which renames the modules.
    """
    modules = list(network.modules())
    if any(_is_torchs(module, "FullyShardedDataParallel") for module in modules):
        raise UnsupportedError(
            "FullyShardedDataParallel renames the modules that are sites; use fully_shard of"
            " torch.distributed.fsdp, or DistributedDataParallel."
        )
    sharded = [one for one in network.parameters() if type(one).__name__ == "DTensor"]
    if not sharded:
        return
    whole = {
        id(parameter)
        for module in modules
        if _is_torchs(module, "FSDPModule")
        for parameter in module.parameters()
    }
    if not all(id(parameter) in whole and _over_data_alone(parameter) for parameter in sharded):
        raise UnsupportedError(
            "The network has parameters sharded by tensor parallelism, where an activation is in"
            " pieces on several ranks that no memory knows together; use fully_shard or"
            " DistributedDataParallel, without tensor parallelism."
        )


def _over_data_alone(parameter: Any) -> bool:
    """Whether a parameter is sharded over ranks that hold other examples: FSDP2, or its hybrid."""
    *replicated, last = parameter.placements
    return last.is_shard() and len(replicated) < 2 and all(one.is_replicate() for one in replicated)


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
