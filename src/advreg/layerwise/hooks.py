"""Hooks at sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from advreg.hooks import Hook
from advreg.inputs import Found, InputArgument, find_tensor
from advreg.layerwise.attachment import _forget_compiled_code
from advreg.layerwise.sites import INPUT

SiteHook = Callable[[Tensor], Tensor | None]
"""Takes a site's tensor; returns the tensor that goes on in its place, or None to leave it."""


class HookHandle:
    """A hook, and its removal."""

    def __init__(self, handle: RemovableHandle) -> None:
        self._handle = handle

    def remove(self) -> None:
        """Leaves the module as it was."""
        self._handle.remove()
        _forget_compiled_code()


def register_site_hook(
    network: nn.Module, site: str, hook: SiteHook, *, input_name: str | None = None
) -> HookHandle:
    """Calls `hook` with what a site hands on, in every forward pass, until it is removed.

    In compiled code the hook runs eagerly, between the parts of the graph; what was compiled
    before is compiled again. Copies and pickles of the network do not have the hook.

    Args:
        network: The network without a wrapper.
        site: "input", or the dotted name of a module, as `resolve_sites` returns them.
        hook: Called with the tensor of the network's input or of the module's output; not where
            there is no floating-point one.
        input_name: The parameter of `forward` that is the input; None is the first.

    Returns:
        A handle with `remove()`.
    """
    eager, argument = torch.compiler.disable(hook), InputArgument.of(network, input_name)

    def replaced(found: Found | None) -> Any:
        new = None if found is None else eager(found[0])
        return None if found is None or new is None else found[1](new)

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return replaced(argument.find(args, kwargs))

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return replaced(find_tensor(output))

    if site == INPUT:
        handle = network.register_forward_pre_hook(Hook(before), with_kwargs=True)
    else:
        handle = network.get_submodule(site).register_forward_hook(Hook(after))
    _forget_compiled_code()
    return HookHandle(handle)
