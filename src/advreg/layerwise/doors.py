"""What compiled sites remember, as tensors that go into the compiled graph and out of it.

S goes in as a tensor that the graph reads. What the backward pass leaves goes out as the gradient
of a tensor that takes part in nothing else: unlike a write inside the graph, a compiler cannot drop
that, whatever memory layouts it chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg.errors import UnsupportedError
from advreg.layerwise import planes
from advreg.layerwise.memory import Told
from advreg.layerwise.planes import Planes, carrier
from advreg.layerwise.signs import Signs, added
from advreg.layerwise.site import Call, Site
from advreg.layerwise.slot import SlotMemory


@dataclass
class Door:
    """Where a call's tensors go into the compiled graph and out of it.

    Attributes:
        codes: Its gradient is the new S, packed; it takes no memory of its own.
        counts: Its gradient has how often the call answered, how many values were not finite, and
            whether any value was not zero.
        scale: The factor on S, a scalar, for absolute budgets the whole of it.
        shape: Of the new S.
        answers: Gradients that have come out.
    """

    codes: Tensor
    counts: Tensor
    scale: Tensor
    shape: tuple[int, ...]
    answers: int = 0


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
        stored = memory.stored
        capacity = stored.shape[site.rows] if isinstance(stored, Planes) else -1
        if capacity < shape[site.rows] or not memory.fits(like):
            stored = Planes.of(self._grown(memory, like))
            memory.stored, memory.count = stored, stored.shape[site.rows]
        assert isinstance(stored, Planes)
        if call.door is None or call.door.shape != stored.shape:
            call.door = self._door(site, call, stored)

    def _grown(self, memory: SlotMemory, like: Tensor) -> Signs:
        """S with at least the rows of `like`, and zeros where there were none."""
        old = memory.read(like, Told(None, None), self._generators)
        new = memory.rule.empty(like)
        assert isinstance(new, Signs)
        if old is None:
            return new
        assert isinstance(old, Signs)
        if old.order != new.order:  # dimensions of one place lie in any order
            old = Signs.of(old.values(), old.rows, new.order)
        new.codes[:, : old.codes.shape[1]] = old.codes
        return new

    def _door(self, site: Site, call: Call, stored: Planes) -> Door:
        codes, counts = _outlets(stored.codes, partial(self._take, site, call, stored.shape))
        scale = self._scale(site, call, codes.device)
        return Door(codes, counts, scale, stored.shape, self._batches)

    def forget(self) -> None:
        """Lets go of the doors, which lead into compiled code."""
        for site in self._sites:
            for call in site.calls:
                call.door = None

    def _scale(self, site: Site, call: Call, device: torch.device) -> Tensor:
        epsilon = site.epsilon * self._factor() * call.memory.rule.factor
        return torch.tensor(epsilon, dtype=torch.float64, device=device)

    def _take(
        self, site: Site, call: Call, shape: tuple[int, ...], taken: Tensor, counts: Tensor
    ) -> None:
        self._keep(site, call, Planes.received(taken, shape, site.rows), counts)
        site.runs += 1
        door = call.door
        if door is None:  # detached since the forward pass
            return
        door.answers += 1
        if door.answers > self._batches:
            self._batches = door.answers
            self._answered()
        if self._factor() != self._scaled_by:
            self._rescale()

    def _keep(self, site: Site, call: Call, new: Planes, counts: Tensor) -> None:
        """Puts S in place of the old one, not over it: another backward pass may still want that.

        A gradient of zeros alone is held for none: compilers make one up where no loss reaches.
        """
        memory = call.memory
        assert isinstance(memory, SlotMemory)
        if planes.packs_by_operator(counts.device):
            answers, bad, reached = map(int, counts.tolist())
            if answers != 1:
                raise UnsupportedError(_SEVERAL)
            if not reached:
                return
        else:  # without waiting for the device, whose compiler may use the memory again
            torch._assert_async(counts[0] == 1, _SEVERAL)
            _, bad, reached = counts.long()
            old, codes = memory.stored, torch.zeros_like(new.codes)
            if isinstance(old, Planes) and old.shape == new.shape:
                codes = old.codes
            new.codes = torch.where(reached > 0, new.codes, codes)
        memory.stored, memory.count = new, new.shape[site.rows]
        memory.nonfinite = added(memory.nonfinite, bad)
        site.records = added(site.records, reached)

    def _rescale(self) -> None:
        self._scaled_by = self._factor()
        for site in self._sites:
            for call in site.calls:
                if call.door is not None:
                    call.door.scale = self._scale(site, call, call.door.scale.device)


_SEVERAL = (
    "Several forward passes of a compiled network with an adversary share one backward pass,"
    " which mixes up their memories; run a backward pass for each of them."
)


def _outlets(codes: Tensor, take: Callable[[Tensor, Tensor], None]) -> tuple[Tensor, Tensor]:
    """Two tensors whose gradients are taken out: of the form of codes, and two counts."""
    token = torch.empty((), device=codes.device, requires_grad=True)
    outlets: tuple[Tensor, Tensor] = _Outlets.apply(token, codes, take)
    return outlets


class _Outlets(torch.autograd.Function):
    """What an accumulated gradient would be copied for, is handed over."""

    @staticmethod
    def forward(
        ctx: Any, token: Tensor, codes: Tensor, take: Callable[[Tensor, Tensor], None]
    ) -> tuple[Tensor, Tensor]:
        ctx.take = take
        number = carrier(codes).new_empty(())  # that seems to have a shape
        return number.expand(codes.shape), token.new_empty(3)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.take(*gradients)
        return None, None, None
