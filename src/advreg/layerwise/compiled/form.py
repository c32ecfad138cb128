"""The hooks of an attached network as a compiler traces them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advreg import _torch_compat
from advreg.errors import GraphBreakWarning
from advreg.inputs import InputArgument, find_tensor
from advreg.layerwise.attach import EAGER, refuse_surroundings
from advreg.layerwise.compiled.graph import perturb
from advreg.layerwise.compiled.ports import GraphPorts
from advreg.layerwise.site import Site, leave_out_logits, merge
from advreg.layerwise.sites import INPUT
from advreg.layerwise.slot_memory import SlotMemory
from advreg.randomness import Generators


def fits_compiled_code(sites: list[Site]) -> bool:
    """Whether all sites can be parts of compiled code; others run between its parts."""
    # Not a subclass, whose own reading and writing compiled code would pass over.
    return all(site.rule.packs and type(site.new_memory()) is SlotMemory for site in sites)


_SAID: list[bool] = []


def say_that_the_graph_breaks() -> None:
    """Warns, once, that sites run eagerly which a newer torch would compile.

    A compiler runs it while it traces; it would not trace a warning, nor a cached function.
    """
    if _SAID:
        return
    _SAID.append(True)
    needed = ".".join(map(str, _torch_compat.COMPILES_SITES))
    warnings.warn(
        f"The compiler of torch {torch.__version__} cannot take an adversary's sites into its"
        f" graph; they run eagerly between its parts, right but slower. Install torch {needed} or"
        " newer.",
        GraphBreakWarning,
        stacklevel=2,
    )


class CompiledForm:
    """The hooks of an attached network as a compiler traces them.

    Args:
        network: The network without a wrapper.
        sites: Its sites.
        generators: For random starts.
        factor: The factor on every epsilon in the next forward pass.
        answered: Called when a further mini-batch's gradients begin to come out.
        is_paused: Whether the network is to be left alone.
        input_name: The parameter of `forward` that is the input; None is the first.
        in_graph: Whether the sites may be parts of the graph.
        is_masked: Whether the next mini-batch has positions to leave alone, which the graph lacks.

    Attributes:
        inside: Whether the network's forward pass is being traced, or the part of one that
            compiled code has left to eager code runs.
    """

    def __init__(
        self,
        network: nn.Module,
        sites: list[Site],
        *,
        generators: Generators,
        factor: Callable[[], float],
        answered: Callable[[], None],
        is_paused: Callable[[], bool],
        input_name: str | None,
        in_graph: bool,
        is_masked: Callable[[], bool],
    ) -> None:
        self._network, self._sites, self._is_paused = network, sites, is_paused
        self._input = InputArgument.of(network, input_name)
        self._has_input = bool(sites) and sites[0].name == INPUT
        self._ports = GraphPorts(sites, generators, factor, answered)
        self._is_masked = is_masked
        self._in_graph = in_graph and fits_compiled_code(sites)
        self._breaks = self._in_graph and _torch_compat.RELEASE < _torch_compat.COMPILES_SITES
        if self._breaks:
            self._in_graph = False
            torch.compiler.assume_constant_result(say_that_the_graph_breaks)
        self.inside = False

    def enter(self, network: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before the network's forward pass."""
        if not self._perturbs():
            return None
        if _torch_compat.exporting():
            refuse_surroundings(self._network)
        if self._breaks:
            say_that_the_graph_breaks()
        if not self._in_graph or self._is_masked():
            return EAGER
        if self.inside:  # a network whose forward pass calls itself is perturbed once
            return None
        self.inside = True
        for site in self._sites:
            site.index = 0
        if not self._has_input:
            return None
        found = self._input.find(args, kwargs)
        if found is None:
            return EAGER
        return self._pass(self._sites[0], (args, kwargs), found)

    def after(self, site: Site, module: nn.Module, args: Any, output: Any) -> Any:
        """After a site's module."""
        if not self._perturbs() or site.is_logits:
            return None
        if not self.inside:
            return EAGER
        return self._pass(site, output, find_tensor(output))

    def leave(self, network: nn.Module, args: Any, output: Any) -> Any:
        """After the network's forward pass."""
        if self.inside:
            self.inside = False
            owner = getattr(getattr(output, "logits", None), "_advreg_site", None)
            if owner is not None:
                leave_out_logits(owner, self._sites)
            return None
        return EAGER if self._perturbs() else None

    def add(self, site: Site) -> None:
        """Takes on a further site, which is among the sites already."""
        self._in_graph = self._in_graph and fits_compiled_code([site])
        self._ports.add(site)

    def rescale(self) -> None:
        """Lets the next forward pass have the factor as it is now."""
        self._ports.rescale()

    def close(self) -> None:
        """Lets go of what compiled code holds."""
        self._ports.forget()

    def reached(self, site: Site) -> bool:
        """Whether a site has run in compiled code."""
        return self._ports.has(site)

    def _perturbs(self) -> bool:
        return self._network.training and torch.is_grad_enabled() and not self._is_paused()

    def _pass(self, site: Site, value: Any, found: Any) -> Any:
        if found is None:
            return None
        tensor, rebuild = found
        # An attribute, for what the graph's tensors are kept in becomes an output of the graph.
        owner = getattr(tensor, "_advreg_site", None)
        if owner is not None:
            merge(site, owner, self._sites)
            return None
        index = site.index
        site.index = index + 1
        changed: Tensor = perturb(self._ports, site, index, tensor)
        changed._advreg_site = site.name  # type: ignore[attr-defined]
        return rebuild(changed)
