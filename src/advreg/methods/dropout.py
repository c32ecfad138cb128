"""Dropout, added to any network."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from advreg.batch import Batch
from advreg.errors import ConfigurationError, SiteError
from advreg.layerwise import resolve_sites
from advreg.layerwise.hooks import register_site_hook
from advreg.layerwise.sites import INPUT
from advreg.methods.base import Backward, Criterion, Method, training_pass
from advreg.methods.output import StepOutput


@dataclass
class Dropout(Method):
    """Drops activations in training (Srivastava et al., JMLR 2014).

    Args:
        p: The share of values set to zero; the others are divided by 1 - p.
        sites: Globs of modules after which to drop; None drops what enters the last layer.
    """

    name: ClassVar[str] = "dropout"
    p: float = 0.3
    sites: list[str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ConfigurationError(f"p is {self.p}; give a share from 0 up to but not 1.")

    def _attach(self, network: nn.Module, stack: ExitStack) -> None:
        if self.sites is None:
            places = [(_head(network), INPUT)]
        else:
            places = [(network, site) for site in resolve_sites(network, self.sites)]
        last: list[weakref.ref[Tensor]] = []
        for module, site in places:
            flagged = module if site == INPUT else module.get_submodule(site)
            handle = register_site_hook(module, site, partial(self._drop, flagged, last))
            stack.callback(handle.remove)

    def step(
        self, model: nn.Module, batch: Batch, criterion: Criterion, backward: Backward
    ) -> StepOutput:
        """See `Method.step`."""
        return training_pass(model, batch, criterion, backward)

    def _drop(
        self, module: nn.Module, last: list[weakref.ref[Tensor]], tensor: Tensor
    ) -> Tensor | None:
        if not module.training or (last and last[0]() is tensor):  # two names for one tensor
            return None
        dropped = F.dropout(tensor, self.p, training=True)
        last[:] = [weakref.ref(dropped)]
        return dropped


def _head(network: nn.Module) -> nn.Module:
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise SiteError("The network has no linear layer to drop before; name sites for dropout.")
    return linear[-1]
