"""One site: perturbing what passes through it and recording the gradient that comes back."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from advreg._torch_compat import (
    below_autograd,
    checkpoint_region,
    graph_task_id,
    saved_tensors_hooks,
)
from advreg.errors import ConfigurationError, SiteError, UnsupportedError
from advreg.layerwise.memory import Memory, MemoryRule, build_memory
from advreg.layerwise.perturbation import (
    NO_LIMITS,
    ForwardPass,
    SavedPerturbation,
    SiteCall,
    root_mean_square,
)
from advreg.layerwise.sites import INPUT
from advreg.tensors import HALVES

MOST = {
    dtype: torch.finfo(dtype).max / 2
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
"""The largest epsilon at activations of a type: twice as much overflows it."""
LOGITS = "the network's logits"
"""The `alias` of a default site that turned out to return them."""


@dataclass
class Site:
    """A tensor inside the network that is perturbed.

    Attributes:
        name: `input`, or the dotted name of the module whose output it is.
        epsilon: The budget before warm-up and split.
        relative: Whether epsilon is in units of the activation's root mean square.
        limits: The range that the perturbed tensor is clamped to.
        memory: The kind of its memories.
        rule: How they are kept.
        default: Whether it was chosen by `default_sites` and not by the user.
        part_of: The block in whose place it is a default site.
        calls: The calls of one forward pass, in their order.
        index: The next call's index in `calls`.
        alias: The site whose tensor this one returns, if it does; or why it is none.
        is_logits: Whether it is a default site that returns the network's logits; apart from
            `alias`, which the first pass sets, for what compiled code reads it is compiled for.
        idle: Whether it is a default site that no gradient has reached while it reached others.
        runs: Calls in which the site was perturbed.
        records: Gradients that have come back, on a GPU perhaps a tensor.
        regions: By activation checkpoint, what each call in it added when it first ran; None
            where it was left alone.
        repeated: The backward pass, the checkpoint and the number of calls recomputed last.
    """

    name: str
    epsilon: float
    relative: bool
    limits: tuple[float, float]
    memory: str
    rule: MemoryRule
    default: bool = False
    part_of: str | None = None
    calls: list[SiteCall] = field(default_factory=list)
    index: int = 0
    alias: str | None = None
    is_logits: bool = False
    idle: bool = False
    runs: int = 0
    records: int | Tensor = 0
    regions: weakref.WeakKeyDictionary[Any, list[SavedPerturbation | None]] = field(
        default_factory=weakref.WeakKeyDictionary
    )
    repeated: tuple[int, int, int] = (0, 0, 0)

    def __getstate__(self) -> dict[str, Any]:
        """Checkpoints in progress stay behind."""
        return {name: value for name, value in vars(self).items() if name != "regions"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, regions=weakref.WeakKeyDictionary())

    def part(self, name: str) -> Site:
        """A site with the same settings at a part of this one's module, see `parts_of`."""
        own = self.epsilon, self.relative, self.limits, self.memory, self.rule
        return Site(name, *own, default=True, part_of=self.name)

    def new_memory(self) -> Memory:
        """The empty memory of a further call."""
        return build_memory(self.memory, self.rule, self.name == INPUT)

    def next_call(self) -> SiteCall:
        """The next call of this forward pass, made where there was none so far."""
        if self.index == len(self.calls):
            self.calls.append(SiteCall(self.new_memory()))
        self.index += 1
        return self.calls[self.index - 1]

    def perturb(self, activation: Tensor, forward: ForwardPass) -> Tensor:
        """The perturbed activation; its gradient will be recorded.

        Args:
            activation: Any shape with a dimension that counts examples.
            forward: The forward pass.

        Raises:
            SiteError: The activation has no dimension that counts examples.
            UnsupportedError: It is nested, sparse or sharded.
        """
        plain = type(activation) is Tensor and activation.layout is torch.strided
        if activation.dim() <= self.rule.batch_dim or not plain or activation.is_nested:
            self.check(activation)
        call = self.next_call()
        stored = call.memory.read(activation, forward.batch, forward.generators)
        if self.relative and (call.rho is None or call.age >= forward.rms_interval):
            call.rho, call.age = root_mean_square(activation), 0
        call.age += 1
        rho = call.rho if self.relative else None
        if rho is not None and rho.device != activation.device:
            call.rho = rho = rho.to(activation.device)  # a restored one lies where it was loaded
        budget = self.epsilon * forward.factor
        if budget > MOST.get(activation.dtype, math.inf):
            self.refuse_epsilon(activation.dtype)
        epsilon = budget * self.rule.factor
        mask = forward.batch.mask_for(self.name, self.index - 1, activation)
        saved = SavedPerturbation(call, forward, stored, rho, epsilon, mask)
        self.runs += 1
        self.note(saved)
        return self._apply(activation, saved)

    def check(self, activation: Tensor) -> None:
        """Refuses an activation that has no rows, or is of a kind that cannot be perturbed.

        Raises:
            SiteError: It has no dimension that counts examples.
            UnsupportedError: It is nested, sparse or sharded.
        """
        if activation.dim() <= self.rule.batch_dim:
            raise SiteError(
                f"Site {self.name!r} has shape {tuple(activation.shape)}, without the dimension"
                f" {self.rule.batch_dim} that counts examples; leave it out of `sites`, or mend"
                " `batch_dim`."
            )
        sharded = type(activation).__name__ == "DTensor"
        if sharded or activation.layout != torch.strided or activation.is_nested:
            kind = "sharded parameters" if sharded else "a nested or sparse activation"
            raise UnsupportedError(
                f"Site {self.name!r} has {kind}, which cannot be perturbed; leave it out of"
                " `sites`, or use adversary.paused() around it."
            )

    def refuse_epsilon(self, dtype: torch.dtype) -> None:
        """Says that the budget would make activations of a type infinite.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(
            f"epsilon is {self.epsilon:g} at site {self.name!r}, too much for {dtype}, whose"
            f" largest number is {torch.finfo(dtype).max:g}: the activations would be infinite;"
            " lower it."
        )

    def rounds_towards(self, activation: Tensor) -> bool:
        """Whether a perturbed activation is rounded towards it: an input in half precision."""
        return self.name == INPUT and activation.dtype in HALVES

    def note(self, saved: SavedPerturbation | None) -> None:
        """Keeps for the recomputation of this forward pass what was added; None: nothing."""
        if saved_tensors_hooks(False):
            region = checkpoint_region()
            if region is None:
                return
            if saved is not None and isinstance(saved.stored, Tensor):
                # A backward pass may write over it before it recomputes this forward pass.
                saved = replace(saved, stored=saved.stored.clone())
            self.regions.setdefault(region, []).append(saved)

    def repeat(self, activation: Tensor, perturbs: bool) -> Tensor:
        """What a recomputed forward pass makes of an activation: what the first one made of it.

        Args:
            activation: As the backward pass computes it again.
            perturbs: Whether a first forward pass would be perturbed now.

        Raises:
            UnsupportedError: What the first forward pass added cannot be known.
        """
        region = checkpoint_region()
        if region is None:
            if not perturbs:
                return activation
            raise UnsupportedError(
                f"Site {self.name!r} is inside a reentrant activation checkpoint, whose first"
                " forward pass runs without gradients; pass use_reentrant=False."
            )
        saved = self._saved(region)
        return activation if saved is None else self._apply(activation, saved)

    def _saved(self, region: Any) -> SavedPerturbation | None:
        found = self.regions.get(region)
        if found is None:
            # A checkpoint within a checkpoint is another object when it is recomputed.
            found = [saved for others in self.regions.values() for saved in others]
            if len(found) > 1:
                raise UnsupportedError(
                    f"Site {self.name!r} runs several times inside nested activation checkpoints,"
                    " which cannot be distinguished; checkpoint each call by itself, or give each"
                    " call its own Tap."
                )
            return found[0] if found else None
        task, key, done = graph_task_id(), id(region), 0
        if self.repeated[:2] == (task, key):
            done = self.repeated[2]
        self.repeated = (task, key, done + 1)
        return found[done]

    def _apply(self, activation: Tensor, saved: SavedPerturbation) -> Tensor:
        limits, addend, original = self.limits, saved, activation
        if limits != NO_LIMITS and activation.requires_grad:
            # The clamp's own gradient reaches the input from outside the site.
            rule, towards = self.rule, self.rounds_towards(activation)
            within = limits if towards else NO_LIMITS
            activation = saved.added_to(activation, within, rule.batch_dim, towards).clamp(*limits)
            addend = SavedPerturbation(saved.call, saved.forward, None, None, 0.0)
        recorder = GradientRecorder(self, addend)
        perturbed: Tensor = _Perturb.apply(activation, _token(activation.device), recorder)
        if saved.forward.probe is not None:
            recorder.change = saved.forward.probe.applied(self.name, original, perturbed)
        return perturbed

    def statistics(self, factor: float) -> dict[str, float]:
        """See `LayerwiseAdversary.statistics`; `factor` is on epsilon."""
        first = self.calls[0] if self.calls else None
        return {
            "epsilon": self.epsilon * factor,
            "rho": first.rho.item() if first and first.rho is not None else math.nan,
            "zeros": first.memory.zeros() if first else math.nan,
            "nonfinite": sum(int(call.memory.nonfinite) for call in self.calls),
            "runs": self.runs,
            "records": int(self.records),
            "resets": sum(call.memory.resets for call in self.calls),
        }

    def state_dict(self) -> dict[str, Any]:
        """Tensors, plain numbers and names."""
        return {
            "alias": self.alias,
            "idle": self.idle,
            "runs": self.runs,
            "records": int(self.records),
            "calls": [
                {"rho": call.rho, "age": call.age, "memory": call.memory.state_dict()}
                for call in self.calls
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.alias, self.idle = state["alias"], state["idle"]
        self.is_logits = self.alias == LOGITS
        self.runs, self.records = state["runs"], state["records"]
        self.calls = []
        for one in state["calls"]:
            call = SiteCall(self.new_memory(), one["rho"], one["age"])
            call.memory.load_state_dict(one["memory"])
            self.calls.append(call)


def idle_defaults(sites: Iterable[Site]) -> list[Site]:
    """The default sites that no gradient has reached, where it has reached hidden ones."""
    defaults = [site for site in sites if site.default and site.alias is None]
    if not any(int(site.records) for site in defaults if site.name != INPUT):
        return []
    return [site for site in defaults if not int(site.records)]


def merge(site: Site, owner: str, sites: Iterable[Site]) -> None:
    """Notes that a site returns the tensor that another one of these sites has perturbed.

    Raises:
        SiteError: They have two budgets.
    """
    site.alias = owner
    first = next(other for other in sites if other.name == owner)
    if first.epsilon != site.epsilon:
        raise SiteError(
            f"Sites {owner!r} and {site.name!r} are one tensor but have budgets"
            f" {first.epsilon:g} and {site.epsilon:g}; give epsilon for one of them only."
        )


def leave_out_logits(name: str, sites: Iterable[Site]) -> None:
    """Notes that a site returns what the network calls its logits, which no default site is."""
    for site in sites:
        if site.name == name and site.default:
            site.alias, site.is_logits, site.calls, site.runs = LOGITS, True, [], 0


@dataclass
class GradientRecorder:
    """Writes the gradient that comes back to one forward call into its memory."""

    site: Site
    saved: SavedPerturbation
    before: Tensor | None = None
    change: Tensor | None = None
    first_order_done: bool = False

    def record(self, gradient: Tensor, create_graph: bool) -> None:
        """Writes the memory; after a pass under `create_graph`, only another one does."""
        if self.first_order_done and not create_graph:
            return
        self.first_order_done = create_graph
        call, forward, site = self.saved.call, self.saved.forward, self.site
        if self.change is not None and forward.probe is not None:
            batch = forward.batch if site.memory == "example" else None
            forward.probe.returned(site.name, self.change, gradient, site.rule.batch_dim, batch)
        self.before = call.memory.write(gradient.detach(), forward.batch, self.before)
        forward.backward_count += 1
        site.records += 1


class _Perturb(torch.autograd.Function):
    """Adds the stored direction; hands the gradient on untouched and records it."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, token: Tensor, recorder: GradientRecorder) -> Tensor:
        ctx.recorder, site = recorder, recorder.site
        with below_autograd():
            towards = site.rounds_towards(activation)
            return recorder.saved.added_to(activation, site.limits, site.rule.batch_dim, towards)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.recorder.record(gradients[0], create_graph=torch.is_grad_enabled())
        return gradients[0], None, None


@functools.cache
def _token(device: torch.device) -> Tensor:
    """Requires a gradient, so that backward runs even if nothing before the site does."""
    return torch.zeros((), device=device, requires_grad=True)
