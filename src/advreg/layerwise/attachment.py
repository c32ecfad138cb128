"""The hooks by which an adversary sits on a network, and their removal."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch._dynamo
from torch import nn
from torch._C._dynamo.eval_frame import get_eval_frame_callback

from advreg.errors import AttachmentError, SiteError, UnsupportedError
from advreg.hooks import Hook
from advreg.layerwise.compiled import EAGER, Traced
from advreg.layerwise.context import REPLICATED, recomputing, refuse_replica
from advreg.layerwise.doors import Doors
from advreg.layerwise.site import Forward, Site, merge
from advreg.layerwise.sites import INPUT
from advreg.layerwise.structure import find_tensor, whole_of


class Attachment:
    """A handle on an attached network; as a context manager it detaches on leaving.

    Args:
        network: The bare network.
        sites: Where to perturb.
        input_required: Whether a network without a floating-point input is an error.
        begin: Called before a forward pass that perturbs, with whether it is what compiled code
            has left of one; returns what its sites share.
        paused: Whether the network is to be left alone.
        ended: Called once on detaching.
        doors: Of sites that can be parts of compiled code; None where they cannot.
    """

    def __init__(
        self,
        network: nn.Module,
        sites: list[Site],
        *,
        input_required: bool,
        begin: Callable[[bool], Forward],
        paused: Callable[[], bool],
        ended: Callable[[], None],
        doors: Doors | None,
    ) -> None:
        self.network = network
        self._sites = sites
        self._input_required = input_required
        self._begin, self._paused, self._ended = begin, paused, ended
        self._forward: Forward | None = None
        self._inside, self._doors = False, doors
        self._traced = traced = Traced(network, sites, doors, self._perturbs)
        enter, leave = _either(self._enter, traced.enter), _either(self._leave, traced.leave)
        self._handles = [
            network.register_forward_pre_hook(Hook(enter), with_kwargs=True),
            network.register_forward_hook(Hook(leave), always_call=True),
        ]
        after = _either(self._after, traced.after)
        for site in sites:
            if site.name != INPUT:
                module = network.get_submodule(site.name)
                self._handles.append(module.register_forward_hook(Hook(partial(after, site))))
        _forget_compiled_code()

    def detach(self) -> None:
        """Leaves the network as it was; a second call does nothing."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _forget_compiled_code()
        self._ended()
        if self._doors is not None:
            self._doors.forget()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _perturbs(self) -> bool:
        return self.network.training and torch.is_grad_enabled() and not self._paused()

    def next_pass(self) -> None:
        """Lets parts of the network that are called on their own begin a forward pass."""
        self._forward = None

    def _enter(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._perturbs() and not recomputing():
            refuse_replica(network)
            self._inside, self._traced.inside = True, False
            self._forward = self._begin_anew()
        site = next((site for site in self._sites if site.name == INPUT), None)
        if site is None:
            return None
        if self._perturbs() and find_tensor((args, kwargs)) is None:
            if self._input_required:
                raise SiteError(
                    "The network has no floating-point input to be the site 'input';"
                    " name hidden sites instead, such as its embedding."
                )
            site.alias = "no floating-point input"
        changed: tuple[tuple[Any, ...], dict[str, Any]] | None = self._pass(site, (args, kwargs))
        return changed

    def _leave(self, network: nn.Module, args: Any, output: Any) -> None:
        self._inside = False

    def _after(self, site: Site, module: nn.Module, args: Any, output: Any) -> Any:
        if self._perturbs():
            refuse_replica(module)
        return self._pass(site, output)

    def _pass(self, site: Site, value: Any) -> Any:
        """The value with its tensor perturbed, or None to leave it as it is."""
        found = find_tensor(value)
        if found is None:
            return None
        tensor, rebuild = found
        if recomputing():
            repeated = site.repeat(tensor, self._perturbs())
            return None if repeated is tensor else rebuild(repeated)
        owner = self._owner(tensor) if self._perturbs() else None
        if owner is not None:
            merge(site, owner, self._sites)
        if owner is not None or not self._perturbs():
            site.note(None)
            return None
        return rebuild(self._perturb(site, tensor))

    def _owner(self, tensor: torch.Tensor) -> str | None:
        """The site whose perturbed tensor this is."""
        tensor = whole_of(tensor)
        owner = self._forward.perturbed.get(id(tensor)) if self._forward is not None else None
        same = owner is not None and owner[0]() is tensor and owner[1] == tensor._version
        return owner[2] if owner is not None and same else None

    def _begin_anew(self) -> Forward:
        traced = self._traced.inside
        if not traced:  # whose sites' places a compiler knows
            for site in self._sites:
                site.begin()
        return self._begin(traced)

    def _perturb(self, site: Site, tensor: torch.Tensor) -> torch.Tensor:
        if self._forward is None or (self._forward.answered and not self._inside):
            self._forward = self._begin_anew()  # parts of the network are called on their own
        perturbed = site.perturb(tensor, self._forward)
        self._forward.perturbed[id(perturbed)] = (
            weakref.ref(perturbed),
            perturbed._version,
            site.name,
        )
        return perturbed


def _either(eager: Callable[..., Any], traced: Callable[..., Any]) -> Callable[..., Any]:
    """Calls one function in eager code, and in code that is being compiled the other."""
    reason = "an attached adversary runs its sites eagerly; compile without fullgraph"
    stepped_around = torch.compiler.disable(eager, reason=reason)

    def call(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            answer = EAGER if torch.compiler.is_exporting() else traced(*args)
            if answer is not EAGER:
                return answer
        elif get_eval_frame_callback() is None:  # no compiler is at work, none to step around
            return eager(*args)
        return stepped_around(*args)

    return call


def unwrap_model(model: nn.Module) -> nn.Module:
    """The network inside a compiled or data-parallel wrapper.

    Raises:
        UnsupportedError: The network cannot be perturbed rightly: sharded, scripted, replicated.
        AttachmentError: It is no network.
    """
    if not isinstance(model, nn.Module):
        raise AttachmentError(f"attach takes an nn.Module, not a {type(model).__name__}.")
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if "OptimizedModule" in kinds:
        return unwrap_model(model._orig_mod)  # type: ignore[arg-type]
    if "DistributedDataParallel" in kinds:
        return unwrap_model(model.module)  # type: ignore[arg-type]
    sharded = any(type(parameter).__name__ == "DTensor" for parameter in model.parameters())
    if sharded or any(
        type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()
    ):
        raise UnsupportedError(
            "A network with sharded parameters cannot be attached to; use DistributedDataParallel."
        )
    if "DataParallel" in kinds:
        raise UnsupportedError(REPLICATED)
    if "ScriptModule" in kinds:
        raise UnsupportedError("A scripted network cannot be attached to; attach to its source.")
    return model


def _forget_compiled_code() -> None:
    # Compiled code that does not guard on hooks would go on without noticing the change, and be
    # taken for other networks of the same class, attached or not.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch.compiler.reset()
