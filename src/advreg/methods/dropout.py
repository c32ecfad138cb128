"""Dropout, added to any network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from advreg.errors import ConfigurationError, SiteError

from advreg.layerwise import resolve_sites
from advreg.methods.base import Method


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

    @contextmanager
    def attach(
        self, model: nn.Module, *, steps_per_epoch: int | None = None, examples: int | None = None
    ) -> Iterator[None]:
        """See `Method.attach`."""
        if self.sites is None:
            handles = [_head(model).register_forward_pre_hook(self._before)]
        else:
            names = resolve_sites(model, self.sites)
            handles = [
                model.register_forward_pre_hook(self._before)
                if name == "input"
                else model.get_submodule(name).register_forward_hook(self._after)
                for name in names
            ]
        try:
            with super().attach(model):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (F.dropout(args[0], self.p, module.training), *args[1:])

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return F.dropout(output, self.p, module.training)


def _head(model: nn.Module) -> nn.Module:
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise SiteError("The network has no linear layer to drop before; name sites for dropout.")
    return linear[-1]
