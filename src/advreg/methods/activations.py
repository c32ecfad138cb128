"""Reading and changing what sites hand on, for the methods that need more than the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import SiteError, UnsupportedError
from advreg._torch_compat import graph_task_id
from advreg.layerwise.sites import INPUT
from advreg.inputs import find_tensor

Change = Callable[[str, Tensor], Tensor]
"""Takes a site's name and its tensor; returns the tensor to go on with."""


@contextmanager
def changing(network: nn.Module, sites: Iterable[str], change: Change) -> Iterator[None]:
    """Within it, what each site hands on goes through `change`, in one forward pass.

    Args:
        network: The bare network.
        sites: Names as `resolve_sites` returns them. Two names for one tensor are one site, the
            one that runs first.
        change: Called once a site; returns another tensor than it was given.

    Raises:
        UnsupportedError: A site runs several times in the forward pass.
    """
    changed: dict[str, Tensor] = {}

    def apply(site: str, value: Any) -> Any:
        found = find_tensor(value)
        if found is None or any(found[0] is other for other in changed.values()):
            return None
        if site in changed and not graph_task_id() != -1:
            raise UnsupportedError(
                f"Site {site!r} runs several times in one forward pass; put an advreg.Tap at each"
                " place and name those instead."
            )
        changed[site] = change(site, found[0])
        return found[1](changed[site])

    with ExitStack() as stack:
        for site in sites:
            hook = partial(apply, site)
            if site == INPUT:
                handle = network.register_forward_pre_hook(
                    lambda _, args, kwargs, hook=hook: hook((args, kwargs)), with_kwargs=True
                )
            else:
                handle = network.get_submodule(site).register_forward_hook(
                    lambda _, args, output, hook=hook: hook(output)
                )
            stack.callback(handle.remove)
        yield


class Activations:
    """What `capturing` caught in one forward pass.

    Attributes:
        at: By site, the tensor there; part of the graph.
        outputs: The network's output, in front of whatever a wrapper does to it.
    """

    def __init__(self) -> None:
        self.at: dict[str, Tensor] = {}
        self.outputs: Tensor = torch.empty(0)

    def gradients(self, loss: Tensor, *, create_graph: bool = False) -> dict[str, Tensor]:
        """The gradient of a loss at each site, of the site's shape and type.

        Args:
            loss: A scalar, computed from `outputs`.
            create_graph: Whether the gradients are to be differentiated themselves.

        Raises:
            SiteError: No site ran.
        """
        if not self.at:
            raise SiteError("None of the sites ran in the forward pass; name sites that it uses.")
        gradients = torch.autograd.grad(
            loss,
            list(self.at.values()),
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self.at, gradients, strict=True))


@contextmanager
def capturing(network: nn.Module, sites: Iterable[str]) -> Iterator[Activations]:
    """Within it, one forward pass leaves the tensors of the sites and the outputs in the result.

    Args:
        network: The bare network; a wrapper around it may be what is called.
        sites: Names as `resolve_sites` returns them.
    """
    seen = Activations()

    def keep(site: str, tensor: Tensor) -> Tensor:
        kept = tensor.detach().requires_grad_() if tensor.is_leaf else tensor
        seen.at[site] = kept
        return kept.clone()  # so that a layer that works in place leaves it as it is

    def keep_outputs(module: nn.Module, args: Any, output: Any) -> Any:
        found = find_tensor(output)
        if found is None or graph_task_id() != -1:
            return None
        # Precision plugins refuse gradients through the very tensor that the wrapper returns.
        seen.outputs = found[0]
        return found[1](found[0].view_as(found[0]))

    with changing(network, sites, keep):
        handle = network.register_forward_hook(keep_outputs)
        try:
            yield seen
        finally:
            handle.remove()


def rows(tensor: Tensor) -> Tensor:
    """(B, ...) as (B, N), in at least float32."""
    precision = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.reshape(len(tensor), -1).to(precision)
