"""What compiled sites remember, as tensors that go into the compiled graph and out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg import _torch_compat
from advreg.errors import UnsupportedError
from advreg.layerwise.kernels import register_decompositions
from advreg.layerwise.packed import (
    PackedWords,
    as_differentiable,
    compiled_order,
    from_differentiable,
)
from advreg.layerwise.perturbation import SiteCall
from advreg.layerwise.site import Site
from advreg.layerwise.slot_memory import SlotMemory
from advreg.randomness import Generators


@dataclass
class GraphPort:
    """Where a call's tensors go into the compiled graph and out of it.

    Attributes:
        codes: Its gradient is the new S, packed; it takes no memory of its own.
        counts: Its gradient has how often the call answered, how many values were not finite, and
            whether any value was not zero.
        scale: The factor on S, a scalar, for absolute budgets the whole of it.
        shape: Of the new S.
        backward_count: Gradients that have come out.
    """

    codes: Tensor
    counts: Tensor
    scale: Tensor
    shape: tuple[int, ...]
    backward_count: int = 0


class GraphPorts:
    """The ports of all sites of an adversary.

    Args:
        sites: Its sites.
        generators: For random starts.
        factor: The factor on every epsilon in the next forward pass.
        answered: Called when a further mini-batch's gradients begin to come out.

    Attributes:
        ports: By site, a port a call; None where compiled code does not have the call.
    """

    def __init__(
        self,
        sites: list[Site],
        generators: Generators,
        factor: Callable[[], float],
        answered: Callable[[], None],
    ) -> None:
        self._sites, self._generators = sites, generators
        self._factor, self._answered = factor, answered
        self._batches, self._scaled_by = 0, factor()
        # Here and not at its definition, since it loads the whole compiler.
        torch.compiler.assume_constant_result(GraphPorts.prepare)
        self.ports: dict[str, list[Any]] = {site.name: [] for site in sites}

    def prepare(self, site: Site, index: int, shape: Any, dtype: Any, device: Any) -> None:
        """Makes a call's memory and port; run while the compiler traces, not in the graph."""
        register_decompositions()
        while index >= len(site.calls):
            site.calls.append(SiteCall(site.new_memory()))
        call, ports = site.calls[index], self.ports[site.name]
        call.age = 1  # rho is measured in every forward pass
        memory, dim = call.memory, site.rule.batch_dim
        assert isinstance(memory, SlotMemory)
        order = compiled_order(len(shape), dim)
        like = torch.empty(shape, dtype=dtype, device=device)
        words = memory.ready(like, order, self._generators)
        if words is None:
            words = PackedWords.zeros(shape, order, dim, device)
        if words is not memory.words:
            memory.keep(words, 0)
        ports += [None] * (index + 1 - len(ports))
        port = ports[index]
        if port is None or port.shape != words.shape:
            form = words.shape, words.order, dim  # and not the words, which would be kept
            codes, counts = _outlets(words.codes, partial(self._take, site, index, form))
            scale = self._scale(site, device)
            ports[index] = GraphPort(codes, counts, scale, tuple(words.shape), self._batches)

    def add(self, site: Site) -> None:
        """Takes on a further site."""
        self.ports[site.name] = []

    def has(self, site: Site) -> bool:
        """Whether compiled code has a call of a site."""
        return any(port is not None for port in self.ports[site.name])

    def forget(self) -> None:
        """Lets go of the ports, which lead into compiled code."""
        for ports in self.ports.values():
            ports.clear()

    def rescale(self) -> None:
        """Lets the next forward pass have the factor as it is now."""
        if self._factor() == self._scaled_by:
            return
        self._scaled_by = self._factor()
        for site in self._sites:
            for port in self.ports[site.name]:
                if port is not None:
                    port.scale = self._scale(site, port.scale.device)

    def _scale(self, site: Site, device: torch.device) -> Tensor:
        epsilon = site.epsilon * self._factor() * site.rule.factor
        return torch.tensor(epsilon, dtype=torch.float64, device=device)

    def _take(
        self, site: Site, index: int, form: tuple[Any, ...], taken: Tensor, counts: Tensor
    ) -> None:
        new = PackedWords(from_differentiable(taken), *form)
        self._keep(site, site.calls[index], new, counts)
        site.runs += 1
        ports = self.ports[site.name]
        port = ports[index] if index < len(ports) else None
        if port is None:  # detached since the forward pass
            return
        port.backward_count += 1
        if port.backward_count > self._batches:
            self._batches = port.backward_count
            self._answered()
        self.rescale()

    def _keep(self, site: Site, call: SiteCall, new: PackedWords, counts: Tensor) -> None:
        """Puts S in place of the old one, not over it: another backward pass may still want that.

        A gradient of zeros alone is held for none: compilers make one up where no loss reaches.
        """
        memory = call.memory
        assert isinstance(memory, SlotMemory)
        reached: Any
        if counts.is_cpu:
            answers, bad, reached = map(int, counts.tolist())
            if answers != 1:
                raise UnsupportedError(_SEVERAL)
            if not reached:
                return
        else:  # without waiting for the device, whose compiler may use the memory again
            _torch_compat.assert_async(counts[0] == 1, _SEVERAL)
            _, bad, reached = counts.long()
            old, codes = memory.words, torch.zeros_like(new.codes)
            if old is not None and old.codes.shape == new.codes.shape:
                codes = old.codes
            codes = torch.where(reached > 0, new.codes, codes)
            new = PackedWords(codes, new.shape, new.order, new.batch_dim)
        memory.keep(new, bad)
        if isinstance(site.records, Tensor):
            site.records = site.records.to(counts.device)
        site.records += reached


_SEVERAL = (
    "Several forward passes of a compiled network with an adversary share one backward pass,"
    " which mixes up their memories; run a backward pass for each of them."
)


def _outlets(codes: Tensor, take: Callable[[Tensor, Tensor], None]) -> tuple[Tensor, Tensor]:
    """Two tensors whose gradients are taken out: of the form of codes, and three counts."""
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
        number = as_differentiable(codes).new_empty(())  # that seems to have a shape
        return number.expand(codes.shape), token.new_empty(3)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.take(*gradients)
        return None, None, None
