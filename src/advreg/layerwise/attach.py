"""How an adversary is attached to a network, and detached from it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from advreg import _torch_compat
from advreg._torch_compat import (
    base_of,
    compiler_callback,
    dispatch_modes,
    forward_ad,
    functorch_level,
    graph_task_id,
    version_of,
)
from advreg.checks import check_inputs
from advreg.errors import SiteError, UnsupportedError
from advreg.inputs import InputArgument, find_tensor
from advreg.layerwise.hooks import HookHandle
from advreg.layerwise.registry import REPLICATED, refuse_sharded
from advreg.layerwise.site import (
    NO_LIMITS,
    ForwardPass,
    Site,
    leave_out_logits,
    merge,
)
from advreg.layerwise.sites import INPUT


class TracedForm(Protocol):
    """What stands in for the hooks while a compiler traces the network; see `compiled`."""

    inside: bool

    def enter(self, network: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before the network's forward pass."""

    def after(self, site: Site, module: nn.Module, args: Any, output: Any) -> Any:
        """After a site's module."""

    def leave(self, network: nn.Module, args: Any, output: Any) -> Any:
        """After the network's forward pass."""

    def add(self, site: Site) -> None:
        """Takes on a further site."""

    def close(self) -> None:
        """Lets go of what compiled code holds."""


CHECK_EVERY = 20
"""Mini-batches between two checks of the inputs' range on a GPU."""

EAGER = object()
"""A traced hook's answer where the eager one must be run instead."""


class Attachment:
    """A handle on an attached network; as a context manager it detaches on leaving.

    Args:
        network: The network without a wrapper.
        sites: Where to perturb.
        traced: What a compiler traces in place of the hooks.
        begin: Begins a forward pass that perturbs; its argument: whether that is what compiled
            code has left of one to eager code.
        is_paused: Whether the network is to be left alone.
        not_training: Called at a forward pass with gradients in evaluation mode.
        detach: Takes the adversary off the network.
        input_name: The parameter of `forward` that is the input; None is the first.
        input_required: Whether a network without a floating-point input is an error.
    """

    def __init__(
        self,
        network: nn.Module,
        sites: list[Site],
        traced: TracedForm,
        *,
        begin: Callable[[bool], ForwardPass],
        is_paused: Callable[[], bool],
        not_training: Callable[[], None],
        detach: Callable[[], None],
        input_name: str | None,
        input_required: bool,
    ) -> None:
        self.network, self.traced = network, traced
        self._sites, self._begin_pass, self._is_paused = sites, begin, is_paused
        self._not_training, self._detach = not_training, detach
        self._input_site = next((site for site in sites if site.name == INPUT), None)
        self._input, self._input_required = InputArgument.of(network, input_name), input_required
        self._forward: ForwardPass | None = None
        self._depth = 0  # calls of the network that this thread is in the middle of
        self._input_waits, self._checks, self._begun = False, 0, False
        self._own_forward = network.forward
        before = _hook(self._before, traced.enter)
        self._handles = [HookHandle(network, before, before=True)]
        try:
            for site in sites:
                self._hook_up(site)
            leave = _hook(self._leave, traced.leave)
            self._handles.append(HookHandle(network, leave, always=True))
            for handle in self._handles:
                handle.guard()
        except BaseException:
            self.close()
            raise

    def add(self, site: Site) -> None:
        """Takes on a further site, which is among its sites already."""
        self.traced.add(site)
        self._hook_up(site)
        self._handles[-1].guard()

    def _hook_up(self, site: Site) -> None:
        if site.name != INPUT:
            module = self.network.get_submodule(site.name)
            after = _hook(partial(self._after, site), partial(self.traced.after, site))
            self._handles.append(HookHandle(module, after))

    def detach(self) -> None:
        """Leaves the network as it was; a second call does nothing."""
        if self._handles:
            self._detach()

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.traced.close()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def perturbs(self) -> bool:
        """Whether a forward pass that began now would be perturbed."""
        return (
            self.network.training
            and torch.is_grad_enabled()
            and not torch.is_inference_mode_enabled()
            and not self._is_paused()
        )

    def next_pass(self) -> None:
        """Lets parts of the network that are called on their own begin a forward pass."""
        self._forward = None

    def _before(self, network: nn.Module, args: Any, kwargs: Any) -> Any:
        """Begins a forward pass and perturbs the network's input."""
        if self._depth and _torch_compat.calls_in_progress(network) <= 1:
            self._depth = 0  # an interrupt has skipped `_leave`
        self._depth += 1
        if not self.perturbs():
            if not network.training and torch.is_grad_enabled() and not self._is_paused():
                self._not_training()
            if graph_task_id() == -1:
                if self._input_site is not None:
                    self._input_site.note(None)
                return None
        elif graph_task_id() == -1 and (self._depth == 1 or self._answered()):
            refuse_surroundings(network)
            self.traced.inside = False
            self._forward = self._begin()
            self._input_waits = self._input_site is not None
        elif self._depth > 1 and not self._input_waits:
            return None  # a network whose forward pass calls itself is perturbed once
        if self._input_site is None or self._waits_for_inner_call(args):
            return None
        self._input_waits = False
        found = self._input.find(args, kwargs)
        if found is None:
            self._no_input()
            return None
        self._check_range(found[0])
        changed = self._pass(self._input_site, found[0])
        return None if changed is None else found[1](changed)

    def _check_range(self, inputs: Tensor) -> None:
        """Refuses inputs that clamping would change.

        On a GPU, which each check waits for, one mini-batch in twenty is checked.
        """
        assert self._input_site is not None
        limits = self._input_site.limits
        if limits != NO_LIMITS and graph_task_id() == -1 and self.perturbs():
            if inputs.is_cpu or self._checks % CHECK_EVERY == 0:
                check_inputs(inputs, limits)
            self._checks += 1

    def _waits_for_inner_call(self, args: Any) -> bool:
        """Whether another forward was put in place, which calls the network again.

        Lightning's data parallelism calls `training_step(batch, index)` so: of a batch of several
        tensors only the inner call says which one is the input.
        """
        replaced = self._depth == 1 and self.network.forward != self._own_forward
        return replaced and bool(args) and not isinstance(args[0], Tensor)

    def _no_input(self) -> None:
        if not self.perturbs():
            return
        if self._input_required:
            raise SiteError(
                "The network has no floating-point input to be the site 'input';"
                " name hidden sites instead, such as its embedding, or name it by input_name."
            )
        assert self._input_site is not None
        self._input_site.alias = "no floating-point input"

    def _leave(self, network: nn.Module, args: Any, output: Any) -> None:
        self._depth = max(0, self._depth - 1)
        if self._forward is not None and not self._depth:
            logits = getattr(output, "logits", None)
            owner = self._forward.perturbed.get(id(logits))
            if owner is not None and owner[0]() is logits:
                leave_out_logits(owner[2], self._sites)

    def _after(self, site: Site, module: nn.Module, args: Any, output: Any) -> Any:
        """Perturbs what a site's module returns."""
        if site.is_logits:
            return None
        if type(output) is Tensor and output.is_floating_point() and output.dim():
            return self._pass(site, output)
        found = find_tensor(output)
        changed = None if found is None else self._pass(site, found[0])
        return None if changed is None or found is None else found[1](changed)

    def _pass(self, site: Site, tensor: Tensor) -> Tensor | None:
        """What goes on in place of a site's tensor; None leaves it as it is."""
        perturbs = self.perturbs()
        if graph_task_id() != -1:  # a checkpoint computes it again
            repeated = site.repeat(tensor, perturbs)
            return None if repeated is tensor else repeated
        if not perturbs:
            site.note(None)
            return None
        forward = self._forward
        if forward is None or (forward.backward_count and not self._depth):
            # Parts of the network are called on their own.
            refuse_surroundings(self.network)
            self._forward = forward = self._begin()
        whole = tensor if base_of(tensor) is None else whole_of(tensor)
        owner = forward.perturbed.get(id(whole))
        if owner is not None and owner[0]() is whole and owner[1] == version_of(tensor):
            merge(site, owner[2], self._sites)
            site.note(None)
            return None
        perturbed = site.perturb(tensor, forward)
        reference = weakref.ref(perturbed)
        forward.perturbed[id(perturbed)] = reference, version_of(perturbed), site.name
        return perturbed

    def _answered(self) -> bool:
        return self._forward is not None and self._forward.backward_count > 0

    def _begin(self) -> ForwardPass:
        if not self._begun:  # it may have been sharded since it was attached to
            refuse_sharded(self.network)
            self._begun = True
        if not self.traced.inside:  # whose sites' indices a compiler knows
            for site in self._sites:
                site.index = 0
        return self._begin_pass(self.traced.inside)


def _hook(eager: Callable[..., Any], traced: Callable[..., Any]) -> Callable[..., Any]:
    """Calls one function in eager code, and in code that is being compiled the other."""
    reason = "an attached adversary runs its sites eagerly; compile without fullgraph"
    stepped_around = torch.compiler.disable(eager, reason=reason)

    def hook(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            answer = traced(*args)
            if answer is not EAGER:
                return answer
        elif compiler_callback() is None:  # no compiler is at work, none to step around
            return eager(*args)
        return stepped_around(*args)

    return hook


def whole_of(tensor: Tensor) -> Tensor:
    """The tensor that a view shows all of, as full backward hooks hand it on; else itself."""
    base = base_of(tensor)
    if base is None or base.storage_offset() != tensor.storage_offset():
        return tensor
    alike = base.shape == tensor.shape and base.stride() == tensor.stride()
    return base if alike else tensor


def refuse_surroundings(network: nn.Module) -> None:
    """Refuses by name what a network cannot be perturbed rightly in.

    Raises:
        UnsupportedError: The forward pass is transformed, traced, or of a replica.
    """
    refused = None
    if "_is_replica" in network.__dict__:
        raise UnsupportedError(REPLICATED)
    if functorch_level() is not None:
        refused = "a torch.func transform"
    elif torch.jit.is_tracing():
        refused = "torch.jit.trace"
    elif _torch_compat.exporting() or (dispatch_modes() and _torch_compat.traced_by_mode()):
        refused = "torch.export or another tracer"
    elif forward_ad._current_level >= 0:
        refused = "forward-mode differentiation"
    if refused:
        raise UnsupportedError(
            f"The network is attached to an adversary, which cannot perturb it inside {refused};"
            " use adversary.paused() around it, or detach first."
        )
