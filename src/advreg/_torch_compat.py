"""Every private name of torch that the package uses, and the public way that is missing.

`tests/unit/test_torch_compat.py` tries each on the torch that is installed, so that a version
that changes one is named by its test.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch._C._dynamo.eval_frame import get_eval_frame_callback

graph_task_id = torch._C._current_graph_task_id
"""The backward pass in progress, -1 outside of one. Public would be `torch.autograd.graph`."""

saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks
"""The innermost `torch.autograd.graph.saved_tensors_hooks`, which has no public getter."""

functorch_level = torch._C._functorch.peek_interpreter_stack
"""The innermost `torch.func` transform or None; public would be a getter in `torch.func`."""

compiler_callback = get_eval_frame_callback
"""None where no compiler is at work here; `torch.compiler` says so only while it traces."""

assert_async = torch._assert_async
"""An assertion on a device that does not wait for it; public would be `torch.testing`."""

below_autograd = torch._C._AutoDispatchBelowAutograd
"""Within it operators run without their autograd formula; public is only `torch.no_grad`."""

base_of = operator.attrgetter("_base")
"""The tensor that a tensor is a view of, or None; there is no public name for it."""

version_of = operator.attrgetter("_version")
"""How often a tensor was changed in place, which the autograd notes name; no method returns it."""

compiled_from = operator.attrgetter("_orig_mod")
"""The module inside what `torch.compile` returns; there is no public name for it."""

AllocationEvent = torch._C._profiler._EventType.Allocation
"""The tag of an allocation in a profile's event tree; `torch.profiler` has only their sums."""

dispatch_modes = torch._C._len_torch_dispatch_stack
"""How many modes see every operation; `torch.utils._python_dispatch` has no public count."""

forward_ad = torch.autograd.forward_ad
"""Its `_current_level` is at least 0 where forward-mode differentiation is active."""

COMPILES_SITES = (2, 13)
"""The first torch whose compiler takes the sites into its graph, right in every tested case.

2.8 cannot run a method while it traces; 2.11 forgets what a site remembers that no loss reaches.
"""

RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])


@contextmanager
def no_grad() -> Iterator[None]:
    """`torch.no_grad`, for forward passes before one that trains within the same autocast.

    Autocast before torch 2.11 would use the casts of weights that it keeps from them for gradients
    too, of which then none reaches the weights.
    """
    with torch.no_grad():
        yield
    if RELEASE < (2, 11):
        torch.clear_autocast_cache()


"""The installed torch's, such as (2, 13)."""

_TRACERS = (torch._C._TorchDispatchModeKey.PROXY, torch._C._TorchDispatchModeKey.FAKE)


def traced_by_mode() -> bool:
    """Whether a tracer (`torch.export`, `make_fx`) or fake tensors see every operation."""
    return dispatch_modes() > 0 and any(map(torch._C._get_dispatch_mode, _TRACERS))


def exporting() -> bool:
    """Whether `torch.export` traces this code.

    Public is `torch.compiler.is_exporting`, which the compilers of early versions (2.8 is one) take
    for true in everything that has to be one graph.
    """
    return torch.compiler._is_exporting_flag


def version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; inference tensors do not count, so -1."""
    return -1 if tensor.is_inference() else int(version_of(tensor))


def storage_users(storage: UntypedStorage) -> int:
    """How many tensors hold a storage; public would be a reference count on it."""
    return int(torch._C._storage_Use_Count(storage._cdata))


def checkpoint_region() -> Any:
    """What identifies the innermost non-reentrant checkpoint, in first and recomputed passes.

    `torch.utils.checkpoint` has no public name for the frame that its hooks close over.
    """
    hooks = saved_tensors_hooks(False)
    if not hooks:
        return None
    pack = getattr(hooks[0], "__wrapped__", hooks[0])
    for cell in getattr(pack, "__closure__", None) or ():
        held = cell.cell_contents
        held = held() if isinstance(held, weakref.ref) else held
        if hasattr(held, "weak_holders"):
            return held
    return None


def compiler_is_loaded() -> bool:
    """Whether torch's compiler was imported, without which nothing can be compiled."""
    return "torch._dynamo" in sys.modules


def decompose_in_inductor(operator: Any, definition: Any) -> None:
    """Gives inductor an operator's definition to fuse, `torch.library` having no such call.

    Registering again changes nothing.
    """
    from torch._inductor import decomposition  # not at import time: it loads the whole compiler

    if operator not in decomposition.decompositions:
        ours = {operator: definition}
        decomposition.decompositions.update(ours)
        decomposition.fast_random_decomps().update(ours)  # a copy, made by an earlier compilation


def guard_module_hooks(guarded: bool) -> bool:
    """Whether compiled code checks that a module's hooks are those that it was compiled with.

    Off by default, so that code compiled for a plain network would be run for an attached one of
    the same class. There is no public setting.

    Returns:
        What it was before.
    """
    import torch._dynamo.config as config  # not at import time, as above

    before = not config.skip_nnmodule_hook_guards
    config.skip_nnmodule_hook_guards = not guarded
    return before


def calls_in_progress(module: torch.nn.Module) -> int:
    """How many calls of a module this thread is in the middle of; slow, it walks the stack."""
    code, frame, found = torch.nn.Module._call_impl.__code__, sys._getframe(), 0
    while frame is not None:
        found += frame.f_code is code and frame.f_locals.get("self") is module
        frame = frame.f_back  # type: ignore[assignment]
    return found
