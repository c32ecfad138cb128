"""The hooks of an attached network as a compiler traces them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advreg.layerwise.doors import Doors
from advreg.layerwise.graph import add
from advreg.layerwise.site import Site, merge
from advreg.layerwise.sites import INPUT
from advreg.layerwise.slot import SlotMemory
from advreg.layerwise.structure import find_tensor


def fits_compiled_code(site: Site) -> bool:
    """Whether a site can be a part of compiled code; the others are run between its parts."""
    memory = site.build()
    return isinstance(memory, SlotMemory) and memory.rule.packs


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
        self.inside = False

    def enter(self, network: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before the network's forward pass."""
        if not self._perturbs():
            return None
        if self._doors is None:
            return EAGER
        self.inside = True
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
        return self._pass(site, output) if self.inside else EAGER

    def leave(self, network: nn.Module, args: Any, output: Any) -> Any:
        """After the network's forward pass."""
        if self.inside:
            self.inside = False
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
            merge(site, owner, self._sites)
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
    site.check(shape)
    doors.prepare(site, place, shape, activation.stride(), activation.dtype, activation.device)
    call = site.calls[place]
    door, stored = call.door, call.memory.stored  # type: ignore[attr-defined]
    scale = door.scale
    if site.relative:
        wide = activation.detach().to(torch.promote_types(activation.dtype, torch.float32))
        mean = wide.square().sum() / max(activation.numel(), 1)
        call.rho = mean.sqrt().float().nan_to_num(0.0, 0.0, 0.0)
        scale = call.rho * scale.float()
    return add(activation, door, stored, scale, site.rows, site.limits)
