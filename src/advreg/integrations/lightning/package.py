"""Which of Lightning's two packages is used, and which of a LightningModule's networks."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from advreg.errors import MissingExtraError, SiteError
from advreg.extras import require


def _package() -> Any:
    """The one that is in use already, else the one that is there."""
    older, newer = "pytorch_lightning", "lightning.pytorch"
    if older in sys.modules and newer not in sys.modules:
        return sys.modules[older]
    what = "the Lightning callback"
    try:
        return require(newer, extra="lightning", what=what)
    except MissingExtraError as missing:
        try:
            return require(older, extra="lightning", what=what)
        except MissingExtraError:
            raise missing from None


Callback: Any = _package().Callback


def network_of(module: nn.Module, name: str | None) -> nn.Module:
    """The network within a LightningModule.

    Args:
        module: The LightningModule.
        name: The network's name in it; None is the module itself, or the only one in it that has
            parameters where the module has no `forward`.

    Raises:
        SiteError: There is no network of that name, or no telling which it is.
    """
    children = dict(module.named_children())
    if name is not None:
        try:
            return module.get_submodule(name)
        except AttributeError:
            raise SiteError(
                f"{type(module).__name__} has no network {name!r}; choose from:"
                f" {', '.join(children)}."
            ) from None
    if type(module).forward.__qualname__ != "LightningModule.forward":
        return module
    found = [one for one in children.values() if next(one.parameters(), None) is not None]
    if len(found) != 1:
        raise SiteError(
            f"{type(module).__name__} has no forward and {len(found)} networks; name the one to"
            f" attach to, of {', '.join(children)}."
        )
    return found[0]
