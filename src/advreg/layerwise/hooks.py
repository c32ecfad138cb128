"""Hooks at sites: nothing is left when they are removed, and copies of the network lack them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from advreg import _torch_compat
from advreg.inputs import Found, InputArgument, find_tensor
from advreg.layerwise.sites import INPUT

SiteHook = Callable[[Tensor], Tensor | None]
"""Takes a site's tensor; returns the tensor that goes on in its place, or None to leave it."""


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

    Raises:
        SiteError: `forward` has no such parameter.
    """
    handle = _register(network, site, eager_in_compiled_code(hook), input_name)
    handle.guard()
    return handle


@contextmanager
def site_hooks(
    network: nn.Module, sites: Iterable[str], hook: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Within it, forward passes of the network run eagerly and call `hook` at each site.

    Args:
        network: The network without a wrapper.
        sites: Names as `resolve_sites` returns them.
        hook: Called with the site's name and its tensor; see `SiteHook`.
    """
    with ExitStack() as stack:
        for site in sites:
            handle = _register(network, site, partial(hook, site), None)
            stack.callback(handle.remove)
        if _torch_compat.compiler_is_loaded():  # code compiled before does not call these hooks
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _register(network: nn.Module, site: str, hook: SiteHook, input_name: str | None) -> HookHandle:
    if site != INPUT:
        return HookHandle(
            network.get_submodule(site),
            lambda module, args, output: _replaced(find_tensor(output), hook),
        )
    argument = InputArgument.of(network, input_name)
    return HookHandle(
        network,
        lambda module, args, kwargs: _replaced(argument.find(args, kwargs), hook),
        before=True,
    )


def _replaced(found: Found | None, hook: SiteHook) -> Any:
    if found is None:
        return None
    tensor, rebuild = found
    new = hook(tensor)
    return None if new is None or new is tensor else rebuild(new)


def eager_in_compiled_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that compilers step around, at no cost where none is at work."""
    reason = "an attached method or adversary runs its sites eagerly; compile without fullgraph"
    stepped_around = torch.compiler.disable(function, reason=reason)

    def call(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or _torch_compat.compiler_callback() is not None:
            return stepped_around(*args)
        return function(*args)

    return call


class HookHandle:
    """A hook on a module, and its removal.

    Args:
        module: The module.
        call: The hook, which takes what torch's hooks take; keyword arguments too if `before`.
        before: Whether it runs before the module's forward pass instead of after it.
        always: Whether it also runs after a forward pass that raised an exception.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Callable[..., Any],
        *,
        before: bool = False,
        always: bool = False,
    ) -> None:
        self._handle: RemovableHandle | None = (
            module.register_forward_pre_hook(call, with_kwargs=True)
            if before
            else module.register_forward_hook(call, always_call=always)
        )
        self._module = weakref.ref(module)
        self._dropped: weakref.finalize[..., nn.Module] | None = None
        _CopiesWithout.of(module).hooks.add(self._handle.id)

    def guard(self) -> None:
        """Makes compiled code notice this hook, from now until it is removed."""
        module = self._module()
        if self._dropped is None and module is not None:
            _guards.add()
            # A network that is dropped while it has hooks gives the compiler's setting back too.
            self._dropped = weakref.finalize(module, _guards.release)
            self._dropped.atexit = False

    def remove(self) -> None:
        """Leaves the module as it was; a second call does nothing."""
        if self._handle is None:
            return
        self._handle.remove()
        module = self._module()
        if module is not None:
            _CopiesWithout.of(module).forget(module, self._handle.id)
        self._handle = None
        if self._dropped is not None and self._dropped.detach() is not None:
            _guards.remove()


class _CopiesWithout:
    """Stands in for a module's `__reduce_ex__`: copies and pickles of it lack some hooks.

    A copied hook would need this package to be loaded, and a scripted copy cannot have one.
    """

    NAME = "__reduce_ex__"

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self.hooks: set[int] = set()

    @classmethod
    def of(cls, module: nn.Module) -> _CopiesWithout:
        """The one of a module, made on first use."""
        found = module.__dict__.get(cls.NAME)
        if not isinstance(found, cls):
            found = module.__dict__[cls.NAME] = cls(module)
        return found

    def forget(self, module: nn.Module, hook: int) -> None:
        """Takes a hook that is no longer there off the list."""
        self.hooks.discard(hook)
        if not self.hooks:
            module.__dict__.pop(self.NAME, None)

    def __call__(self, protocol: int) -> Any:
        module = self._module()
        assert module is not None
        reduced = type(module).__reduce_ex__(module, protocol)
        if not isinstance(reduced, tuple) or len(reduced) < 3 or not isinstance(reduced[2], dict):
            return reduced  # of a class that says itself what its copies have
        state = {name: self._without(name, value) for name, value in reduced[2].items()}
        state.pop(self.NAME, None)
        return (*reduced[:2], state, *reduced[3:])

    def _without(self, name: str, value: Any) -> Any:
        if not name.startswith("_forward_") or not isinstance(value, dict):
            return value
        return type(value)((key, hook) for key, hook in value.items() if key not in self.hooks)


class _HookGuards:
    """Keeps compiled code true to hooks while there are some, and torch's setting as it was.

    Code that does not guard on hooks would go on without a new one, and be run for other
    networks of the same class, with a hook or without.
    """

    def __init__(self) -> None:
        self._count, self._before = 0, False
        self._lock = threading.RLock()  # the collector may come while it is held

    def add(self) -> None:
        """One more hook."""
        with self._lock:
            if self._count == 0:
                self._before = _torch_compat.guard_module_hooks(True)
            self._count += 1
        torch.compiler.reset()

    def remove(self) -> None:
        """One hook less."""
        self.release()
        torch.compiler.reset()

    def release(self) -> None:
        """One hook less, whose network is gone, and nobody runs what was compiled for it.

        The garbage collector calls this at any time, within a compilation too, which would not
        survive that its compiler is reset.
        """
        with self._lock:
            self._count -= 1
            if self._count == 0:
                _torch_compat.guard_module_hooks(self._before)


_guards = _HookGuards()
