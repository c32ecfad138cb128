"""Sites within compiled code: what they remember goes in and out as tensors of the graph.

S goes in as a tensor that the graph reads. What the backward pass leaves goes out as the gradient
of a leaf that takes part in nothing else: unlike a write inside the graph, a compiler cannot drop
that, whatever memory layouts it chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import UnsupportedError
from advreg.layerwise.graph import EIGHT, add, hand_on
from advreg.layerwise.memory import Told
from advreg.layerwise.planes import Planes, unpack_rows
from advreg.layerwise.signs import Signs
from advreg.layerwise.site import Call, Site
from advreg.layerwise.sites import INPUT
from advreg.layerwise.slot import SlotMemory
from advreg.layerwise.structure import find_tensor


@dataclass
class Door:
    """Where a call's tensors go into the compiled graph and out of it.

    Attributes:
        codes: Its gradient is the new S, packed; it takes no memory of its own.
        counts: Its gradient has how often the call answered, and values that were not finite.
        scale: The factor on S, a scalar, for absolute budgets the whole of it.
        answers: Gradients that have come out.
    """

    codes: Tensor
    counts: Tensor
    scale: Tensor
    answers: int = 0


def fits_compiled_code(site: Site) -> bool:
    """Whether a site can be a part of compiled code; the others are run between its parts."""
    memory = site.build()
    return isinstance(memory, SlotMemory) and memory.rule.packs


class Doors:
    """The doors of all sites of an adversary.

    Args:
        sites: Its sites.
        generators: For random starts.
        factor: The factor on every epsilon in the next forward pass.
        answered: Called when a further mini-batch's gradients begin to come out.
    """

    def __init__(
        self,
        sites: list[Site],
        generators: Any,
        factor: Callable[[], float],
        answered: Callable[[], None],
    ) -> None:
        self._sites, self._generators = sites, generators
        self._factor, self._answered = factor, answered
        self._batches = 0
        self._scaled_by = factor()

    @torch.compiler.assume_constant_result
    def prepare(
        self, site: Site, place: int, shape: Any, stride: Any, dtype: Any, device: Any
    ) -> None:
        """Makes a call's memory and door; run while the compiler traces, not in the graph."""
        while place >= len(site.calls):
            site.calls.append(Call(site.build()))
        call = site.calls[place]
        call.age = 1  # rho is measured in every forward pass
        memory = call.memory
        assert isinstance(memory, SlotMemory)
        like = torch.empty_strided(shape, stride, dtype=dtype, device=device)
        planes = memory.stored
        capacity = planes.shape[site.rows] if isinstance(planes, Planes) else -1
        if not isinstance(planes, Planes) or not memory.fits(like) or capacity < shape[site.rows]:
            memory.stored = planes = Planes.of(self._grown(memory, like))
            memory.count = planes.shape[site.rows]
        if call.door is None or call.door.codes.shape != planes.codes.shape:
            call.door = self._door(site, call, planes.codes)

    def _grown(self, memory: SlotMemory, like: Tensor) -> Signs:
        """S with at least the rows of `like`, and zeros where there were none."""
        old = memory.read(like, Told(None, None), self._generators)
        new = memory.rule.empty(like)
        assert isinstance(new, Signs)
        if old is None:
            return new
        assert isinstance(old, Signs)
        new.codes[:, : old.codes.shape[1]] = old.codes
        return new

    def _door(self, site: Site, call: Call, codes: Tensor) -> Door:
        device = codes.device
        leaf = torch.empty((), dtype=EIGHT, device=device).expand(codes.shape)
        counts = torch.zeros(2, device=device)
        scale = self._scale(site, call, device)
        door = Door(leaf.requires_grad_(), counts.requires_grad_(), scale, self._batches)
        door.codes.register_post_accumulate_grad_hook(partial(self._take_codes, site, call))
        door.counts.register_post_accumulate_grad_hook(partial(self._take_counts, call))
        return door

    def _scale(self, site: Site, call: Call, device: torch.device) -> Tensor:
        epsilon = site.epsilon * self._factor() * call.memory.rule.factor
        return torch.tensor(epsilon, dtype=torch.float64, device=device)

    def _take_codes(self, site: Site, call: Call, leaf: Tensor) -> None:
        taken, leaf.grad = leaf.grad, None
        door, memory = call.door, call.memory
        assert taken is not None
        assert door is not None
        assert isinstance(memory, SlotMemory)
        planes = memory.stored
        if isinstance(planes, Signs):  # an eager forward pass came between
            memory.stored = planes = Planes.of(planes)
        assert isinstance(planes, Planes)
        # Put in place of the old codes, not over them: another backward pass may still want those;
        # copied where the compiler may use the memory again, or has chosen another layout.
        codes, old = taken.view(torch.uint8), planes.codes
        if codes.is_cuda or codes.stride() != old.stride():
            codes = torch.empty_like(old).copy_(codes)
        planes.codes = codes
        site.runs, site.records, door.answers = site.runs + 1, site.records + 1, door.answers + 1
        if door.answers > self._batches:
            self._batches = door.answers
            self._answered()
        if self._factor() != self._scaled_by:
            self._rescale()

    def _rescale(self) -> None:
        self._scaled_by = self._factor()
        for site in self._sites:
            for call in site.calls:
                if call.door is not None:
                    call.door.scale = self._scale(site, call, call.door.scale.device)

    def _take_counts(self, call: Call, leaf: Tensor) -> None:
        taken, leaf.grad = leaf.grad, None
        assert taken is not None
        answers, bad = taken
        if taken.is_cuda:
            torch._assert_async(answers == 1, _SEVERAL)  # without waiting for the device
            call.memory.nonfinite = call.memory.nonfinite + bad.long()
            return
        if answers != 1:
            raise UnsupportedError(_SEVERAL)
        call.memory.nonfinite = int(call.memory.nonfinite) + int(bad)


_SEVERAL = (
    "Several forward passes of a compiled network with an adversary share one backward pass,"
    " which mixes up their memories; run a backward pass for each of them."
)

EAGER = object()
"""The traced way is not open to these sites; the eager one must be taken."""


class Traced:
    """The hooks of an attached network as a compiler traces them.

    Args:
        network: The bare network.
        sites: Its sites.
        doors: Their doors; None where some site must run eagerly.
        perturbs: Whether the network is to be perturbed.
    """

    def __init__(
        self,
        network: nn.Module,
        sites: list[Site],
        doors: Doors | None,
        perturbs: Callable[[], bool],
    ) -> None:
        self._network, self._sites, self._doors = network, sites, doors
        self._perturbs = perturbs
        self._inside = False

    def enter(self, network: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before the network's forward pass."""
        if not self._perturbs():
            return None
        if self._doors is None:
            return EAGER
        self._inside = True
        for site in self._sites:
            site.place = 0
            if site.name == INPUT and find_tensor((args, kwargs)) is None:
                return EAGER
        first = self._sites[0] if self._sites else None
        if first is not None and first.name == INPUT:
            return self._pass(first, (args, kwargs))
        return None

    def after(self, site: Site, module: nn.Module, args: Any, output: Any) -> Any:
        """After a site's module."""
        if not self._perturbs():
            return None
        return self._pass(site, output) if self._inside else EAGER

    def leave(self, network: nn.Module, args: Any, output: Any) -> Any:
        """After the network's forward pass."""
        if self._inside:
            self._inside = False
            return None
        return EAGER if self._perturbs() else None

    def _pass(self, site: Site, value: Any) -> Any:
        found = find_tensor(value)
        if found is None:
            return None
        tensor, rebuild = found
        # An attribute, for what the graph's tensors are kept in becomes an output of the graph.
        owner = getattr(tensor, "_advreg_site", None)
        if owner is not None:
            site.alias = owner
            return None
        place = site.place
        site.place = place + 1
        assert self._doors is not None
        changed: Any = perturb(self._doors, site, place, tensor)
        changed._advreg_site = site.name
        return rebuild(changed)


def perturb(doors: Doors, site: Site, place: int, activation: Tensor) -> Tensor:
    """The perturbed activation, as a part of the graph."""
    # Memories have a fixed number of rows, so that each size of a mini-batch is its own graph.
    shape = tuple(len(range(size)) for size in activation.shape)
    doors.prepare(site, place, shape, activation.stride(), activation.dtype, activation.device)
    call = site.calls[place]
    door, codes = call.door, call.memory.stored.codes  # type: ignore[attr-defined]
    scale = door.scale
    if site.relative:
        wide = activation.detach().to(torch.promote_types(activation.dtype, torch.float32))
        mean = wide.square().sum() / max(activation.numel(), 1)
        call.rho = mean.sqrt().float().nan_to_num(0.0, 0.0, 0.0)
        scale = call.rho * scale.float()
    answers = (door.codes, door.counts)
    if site.limits is not None and activation.requires_grad:
        # The clamp's own gradient reaches the input from outside the site.
        values = unpack_rows(codes, site.rows, activation.shape[site.rows], activation.dtype)
        return hand_on((activation + values * scale).clamp(*site.limits), answers, site.rows)
    return add(activation, answers, codes, scale, site.rows, site.limits)
