"""One site: perturbing what passes through it and recording the gradient that comes back."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg.errors import SiteError, UnsupportedError
from advreg.layerwise.budget import root_mean_square
from advreg.layerwise.context import checkpoint_region, refuse_unsupported
from advreg.layerwise.memory import Memory, Stored, Told
from advreg.layerwise.perturbation import add_direction
from advreg.layerwise.signs import Signs
from advreg.randomness import Generators


@dataclass
class Call:
    """The state of one of a site's calls within a forward pass.

    Attributes:
        memory: What the last backward pass left here.
        rho: The relative budget's scale, a float32 scalar; None before the first forward pass.
        age: Forward passes since rho was measured.
        door: What compiled code needs of it (see `doors`).
    """

    memory: Memory
    rho: Tensor | None = None
    age: int = 0
    door: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy takes no part in compiled code."""
        return {**self.__dict__, "door": None}


@dataclass
class Forward:
    """What all sites share in one forward pass of the network.

    Attributes:
        factor: On every site's epsilon: warm-up and sharing.
        rms_interval: Forward passes between two measurements of rho.
        told: The mini-batch's indices and view.
        generators: For random starts and random signs.
        perturbed: By id, the tensors that this pass has perturbed, to recognise a site that
            returns another site's tensor; the version tells a tensor changed in place since.
        answered: Whether a gradient has come back to any site.
    """

    factor: float
    rms_interval: int
    told: Told
    generators: Generators
    perturbed: dict[int, tuple[weakref.ref[Tensor], int, str]] = field(default_factory=dict)
    answered: bool = False


@dataclass(frozen=True)
class Met:
    """What one call met in its forward pass: S and its scale."""

    call: Call
    forward: Forward
    stored: Stored | None
    scale: Tensor | float


@dataclass
class Site:
    """A tensor inside the network that is perturbed.

    Attributes:
        name: `input`, or the dotted name of the module whose output it is.
        epsilon: The budget before warm-up and sharing.
        relative: Whether epsilon is in units of the activation's root mean square.
        limits: The range that the perturbed tensor is clamped to.
        rows: The dimension that counts examples.
        build: Makes the memory of a further call.
        calls: The calls of one forward pass, in their order.
        place: The next call's place in `calls`.
        alias: The site whose tensor this one returns, if it does.
        runs: Calls in which the site was perturbed.
        records: Gradients that have come back, on a GPU perhaps a tensor.
        regions: By activation checkpoint, what each call in it met when it first ran; None where
            it was left alone.
        repeated: The backward pass, the checkpoint and the number of calls recomputed last.
    """

    name: str
    epsilon: float
    relative: bool
    limits: tuple[float, float] | None
    rows: int
    build: Callable[[], Memory]
    calls: list[Call] = field(default_factory=list)
    place: int = 0
    alias: str | None = None
    runs: int = 0
    records: int | Tensor = 0
    regions: weakref.WeakKeyDictionary[Any, list[Met | None]] = field(
        default_factory=weakref.WeakKeyDictionary
    )
    repeated: tuple[int, int, int] = (0, 0, 0)

    def begin(self) -> None:
        """Starts a forward pass of the network."""
        self.place = 0

    def perturb(self, activation: Tensor, forward: Forward) -> Tensor:
        """The perturbed activation; its gradient will be recorded.

        Raises:
            UnsupportedError: The forward pass is one that cannot be perturbed rightly.
            SiteError: The activation has no dimension that counts examples.
        """
        refuse_unsupported(activation, self.name)
        self.check(activation.shape)
        if self.place == len(self.calls):
            self.calls.append(Call(self.build()))
        call = self.calls[self.place]
        self.place += 1
        stored = call.memory.read(activation, forward.told, forward.generators)
        met = Met(call, forward, stored, self._scale(call, activation, forward))
        self.runs += 1
        self.note(met)
        return self._apply(activation, met)

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses an activation without rows, in eager code and while a compiler traces.

        Raises:
            SiteError: It has no dimension that counts examples.
        """
        if len(shape) <= self.rows:
            raise SiteError(
                f"Site {self.name!r} has shape {tuple(shape)}, without the dimension {self.rows}"
                " that counts examples; leave it out of `sites`, or mend `rows`."
            )

    def note(self, met: Met | None) -> None:
        """Remembers for the recomputation of this forward pass what it met; None: nothing."""
        region = checkpoint_region()
        if region is None:
            return
        if met is not None and met.stored is not None:
            # The backward pass may record here before it recomputes this forward pass.
            met = replace(met, stored=met.stored.clone())
        self.regions.setdefault(region, []).append(met)

    def repeat(self, activation: Tensor, perturbs: bool) -> Tensor:
        """What a recomputed forward pass makes of an activation: what the first one made of it.

        Args:
            activation: As the backward pass computes it again.
            perturbs: Whether a first forward pass would be perturbed now.

        Raises:
            UnsupportedError: It cannot be told what the first forward pass met.
        """
        region = checkpoint_region()
        if region is None:
            if not perturbs:
                return activation
            raise UnsupportedError(
                f"Site {self.name!r} is inside a reentrant activation checkpoint, whose first"
                " forward pass runs without gradients; pass use_reentrant=False."
            )
        met = self._met(region)
        return activation if met is None else self._apply(activation, met)

    def _met(self, region: Any) -> Met | None:
        mets = self.regions.get(region)
        if mets is None:
            # A checkpoint within a checkpoint is another object when it is recomputed.
            mets = [met for others in self.regions.values() for met in others]
            if len(mets) > 1:
                raise UnsupportedError(
                    f"Site {self.name!r} runs several times inside nested activation checkpoints,"
                    " which cannot be told apart; checkpoint each call by itself, or give each"
                    " call its own Tap."
                )
            return mets[0] if mets else None
        task, key, done = torch._C._current_graph_task_id(), id(region), 0
        if self.repeated[:2] == (task, key):
            done = self.repeated[2]
        self.repeated = (task, key, done + 1)
        return mets[done]

    def _apply(self, activation: Tensor, met: Met) -> Tensor:
        stored, limits, rows = met.stored, self.limits, self.rows
        if limits is not None and activation.requires_grad:
            # The clamp's own gradient reaches the input from outside the site.
            values = stored.values() if isinstance(stored, Signs) else stored
            activation = add_direction(activation, values, met.scale, rows).clamp(*limits)
            stored, limits = None, None
        ticket = Ticket(self, met.call, met.forward)
        perturb = partial(add_direction, stored=stored, scale=met.scale, rows=rows, limits=limits)
        perturbed: Tensor = _Perturb.apply(activation, _token(activation.device), ticket, perturb)
        return perturbed

    def statistics(self, factor: float) -> dict[str, float]:
        """See `LayerwiseAdversary.statistics`; `factor` is on epsilon."""
        first = self.calls[0] if self.calls else None
        counts = [call.memory.nonfinite for call in self.calls]
        return {
            "epsilon": self.epsilon * factor,
            "rho": first.rho.item() if first and first.rho is not None else math.nan,
            "zeros": first.memory.zeros() if first else math.nan,
            "nonfinite": sum(map(int, counts)),
            "runs": self.runs,
            "records": int(self.records),
            "restarts": sum(call.memory.restarts for call in self.calls),
        }

    def _scale(self, call: Call, activation: Tensor, forward: Forward) -> Tensor | float:
        epsilon = self.epsilon * forward.factor * call.memory.rule.factor
        if not self.relative:
            return epsilon
        if call.rho is None or call.age >= forward.rms_interval:
            call.rho, call.age = root_mean_square(activation), 0
        call.age += 1
        call.rho = call.rho.to(activation.device)  # a restored one lies where it was loaded
        return call.rho * epsilon


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


class Ticket:
    """One forward call's claim on the gradient that comes back to it."""

    def __init__(self, site: Site, call: Call, forward: Forward) -> None:
        self.site, self.call, self.forward = site, call, forward
        self.before: Tensor | None = None
        self.first_order_done = False

    def record(self, gradient: Tensor, create_graph: bool) -> None:
        """Writes the memory; after a pass under `create_graph`, only another one does."""
        if self.first_order_done and not create_graph:
            return
        self.first_order_done = create_graph
        self.before = self.call.memory.write(gradient.detach(), self.forward.told, self.before)
        self.forward.answered = True
        self.site.records += 1


class _Perturb(torch.autograd.Function):
    """Adds the stored direction; hands the gradient on untouched and records it."""

    @staticmethod
    def forward(
        ctx: Any,
        activation: Tensor,
        token: Tensor,
        ticket: Ticket,
        perturb: Callable[[Tensor], Tensor],
    ) -> Tensor:
        ctx.ticket = ticket
        return perturb(activation)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.ticket.record(gradients[0], create_graph=torch.is_grad_enabled())
        return gradients[0], None, None, None


@functools.cache
def _token(device: torch.device) -> Tensor:
    """Requires a gradient, so that backward runs even if nothing before the site does."""
    return torch.zeros((), device=device, requires_grad=True)
