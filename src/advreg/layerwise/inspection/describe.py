"""Which sites a network has, found by a forward pass that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advreg._torch_compat import version
from advreg.layerwise.hooks import site_hooks
from advreg.layerwise.site import Site
from advreg.layerwise.sites import INPUT
from advreg.modes import evaluating


@dataclass(frozen=True)
class SiteDescription:
    """What attaching to a site means.

    Attributes:
        name: The site.
        aliases: Other chosen names of the same tensor; they are this one site.
        shapes: The perturbed tensor's shape in each call, batch dimension included; empty where
            the site did not run.
        dtype: The perturbed tensor's type.
        epsilon: The budget, before warm-up.
        relative: Whether it is in units of the activation's root mean square.
        memory_bytes: What the site's memory takes, for example memory with all its examples.
    """

    name: str
    aliases: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype | None
    epsilon: float
    relative: bool
    memory_bytes: int


def describe_sites(
    network: nn.Module,
    sites: list[Site],
    example_input: Any,
) -> list[SiteDescription]:
    """Describes the sites in the order of the forward pass; those that did not run come last.

    Args:
        network: The network without a wrapper, left as it was.
        sites: Its sites.
        example_input: See `trace_sites`.
    """
    by_name = {site.name: site for site in sites}
    tensors, aliases = trace_sites(network, list(by_name), example_input)
    idle = [name for name in by_name if name not in tensors and name not in aliases]
    return [
        SiteDescription(
            name=name,
            aliases=tuple(other for other, owner in aliases.items() if owner == name),
            shapes=tuple(tuple(tensor.shape) for tensor in tensors.get(name, [])),
            dtype=tensors[name][0].dtype if name in tensors else None,
            epsilon=by_name[name].epsilon,
            relative=by_name[name].relative,
            memory_bytes=sum(map(by_name[name].new_memory().nbytes, tensors.get(name, []))),
        )
        for name in [*tensors, *idle]
        if name != INPUT or name in tensors
    ]


def trace_sites(
    model: nn.Module, names: list[str], example_input: Any
) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
    """Runs the network once, in evaluation mode and without gradients.

    Args:
        model: The network, left as it was.
        names: Sites to record.
        example_input: A tensor, a tuple of positional or a mapping of keyword arguments.

    Returns:
        The tensors of each site that ran, a call each, and for each name that returned another
        site's tensor that site's name.
    """
    tensors: dict[str, list[Tensor]] = {}
    aliases: dict[str, str] = {}
    owners: dict[int, tuple[Tensor, int, str]] = {}

    def record(name: str, tensor: Tensor) -> None:
        owner = owners.get(id(tensor))
        if owner is not None and owner[1] == version(tensor):
            aliases[name] = owner[2]
            return
        owners[id(tensor)] = (tensor, version(tensor), name)
        tensors.setdefault(name, []).append(tensor)

    args, kwargs = _arguments(example_input)
    with site_hooks(model, names, record), torch.no_grad(), evaluating(model):
        model(*args, **kwargs)
    return tensors, aliases


def _arguments(example_input: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(example_input, Mapping):
        return (), example_input
    if isinstance(example_input, tuple):
        return example_input, {}
    return (example_input,), {}
