"""What surrounds a forward pass: recomputation, transforms, tracing."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import UnsupportedError


def recomputing() -> bool:
    """Whether a backward pass is running this forward pass, as activation checkpointing does."""
    return bool(torch._C._current_graph_task_id() != -1)


def checkpoint_region() -> Any:
    """What identifies the innermost non-reentrant checkpoint, in first and recomputed passes."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    pack = getattr(hooks[0], "__wrapped__", hooks[0]) if hooks else None
    for cell in getattr(pack, "__closure__", None) or ():
        held = cell.cell_contents
        held = held() if isinstance(held, weakref.ref) else held
        if hasattr(held, "weak_holders"):
            return held
    return None


def refuse_unsupported(activation: Tensor, name: str) -> None:
    """Refuses by name what a site cannot be perturbed rightly in.

    Raises:
        UnsupportedError: The forward pass is transformed, traced, sharded, nested or sparse.
    """
    refused = None
    if torch._C._functorch.peek_interpreter_stack() is not None:
        refused = "a torch.func transform"
    elif torch._C._get_tracing_state() is not None:
        refused = "torch.jit.trace"
    elif torch._C._len_torch_dispatch_stack() and any(map(torch._C._get_dispatch_mode, _TRACERS)):
        refused = "torch.export or another tracer"
    elif torch.autograd.forward_ad._current_level >= 0:
        refused = "forward-mode differentiation"
    elif activation.layout != torch.strided or activation.is_nested:
        refused = "a nested or sparse activation"
    elif type(activation).__name__ == "DTensor":
        refused = "sharded parameters"
    if refused:
        raise UnsupportedError(
            f"Site {name!r} met {refused}, which cannot be perturbed;"
            " use adversary.paused() around it, or detach first."
        )


_TRACERS = (torch._C._TorchDispatchModeKey.PROXY, torch._C._TorchDispatchModeKey.FAKE)


def refuse_replica(module: nn.Module) -> None:
    """Refuses the copies that `nn.DataParallel` makes in every step.

    Raises:
        UnsupportedError: The module is such a copy.
    """
    if module.__dict__.get("_is_replica"):  # getattr is slow where there is none
        raise UnsupportedError(REPLICATED)


REPLICATED = (
    "nn.DataParallel copies the network in every step, which loses the memories;"
    " use DistributedDataParallel."
)
