"""Reading and changing what sites hand on, for the methods that need more than the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advreg._torch_compat import graph_task_id
from advreg.errors import SiteError, UnsupportedError
from advreg.inputs import find_tensor
from advreg.layerwise.hooks import HookHandle, eager_in_compiled_code, register_site_hook
from advreg.methods.checks import check_scalar

Change = Callable[[str, Tensor], Tensor | None]
"""Takes a site's name and its tensor; returns another tensor to go on with, or None."""


class Activations:
    """What one forward pass has left, see `SiteHooks.capturing`.

    Attributes:
        at: By site, the tensor there; part of the graph.
        outputs: What the network returns, in front of whatever a wrapper does to it.
    """

    def __init__(self) -> None:
        self.at: dict[str, Tensor] = {}
        self.outputs: Any = None

    def gradients(self, loss: Tensor, *, create_graph: bool = False) -> dict[str, Tensor]:
        """The gradient of a loss at each site, of the site's shape and type.

        Args:
            loss: A scalar, computed from `outputs`.
            create_graph: Whether the gradients are to be differentiated themselves.

        Raises:
            SiteError: No site ran.
            ConfigurationError: The loss is no scalar.
        """
        check_scalar(loss)
        gradients = torch.autograd.grad(
            loss,
            list(self.required().values()),
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self.at, gradients, strict=True))

    def required(self) -> dict[str, Tensor]:
        """`at`, where any site ran with a floating-point tensor.

        Raises:
            SiteError: None did.
        """
        if not self.at:
            raise SiteError(
                "None of the sites ran in the forward pass with floating-point values; name sites"
                " that it uses."
            )
        return self.at


class SiteHooks:
    """Hooks at sites of a network, through which a method captures or changes a pass at a time.

    They are registered once, since what is compiled is compiled again for a new hook, and do
    nothing outside of `changing` and `capturing`. Two names for one tensor are one site, the one
    that runs first.

    Args:
        network: The network without a wrapper; a wrapper around it may be what is called.
        sites: Names as `resolve_sites` returns them.
        stack: Removes the hooks when it is closed.
    """

    def __init__(self, network: nn.Module, sites: Iterable[str], stack: ExitStack) -> None:
        self._change: Change | None = None
        self._changed: dict[str, Tensor] = {}
        self._seen: Activations | None = None
        for site in sites:
            handle = register_site_hook(network, site, partial(self._at, site))
            stack.callback(handle.remove)
        leave = eager_in_compiled_code(self._leave)
        handle = HookHandle(network, lambda module, args, outputs: leave(outputs))
        handle.guard()
        stack.callback(handle.remove)

    @contextmanager
    def changing(self, change: Change) -> Iterator[None]:
        """Within it, what each site hands on goes through `change`, in one forward pass.

        Raises:
            UnsupportedError: A site runs several times in the forward pass.
        """
        self._change, self._changed = change, {}
        try:
            yield
        finally:
            self._change, self._changed = None, {}

    @contextmanager
    def capturing(self) -> Iterator[Activations]:
        """Within it, one forward pass leaves the sites' tensors and the outputs in the result.

        Raises:
            UnsupportedError: A site runs several times in the forward pass.
        """
        seen = self._seen = Activations()

        def keep(site: str, tensor: Tensor) -> Tensor:
            kept = tensor.detach().requires_grad_() if tensor.is_leaf else tensor
            if graph_task_id() == -1:
                seen.at[site] = kept
            return kept.clone()  # so that a layer that works in place leaves it as it is

        try:
            with self.changing(keep):
                yield seen
        finally:
            self._seen = None

    def _at(self, site: str, tensor: Tensor) -> Tensor | None:
        if self._change is None or any(tensor is other for other in self._changed.values()):
            return None
        if site in self._changed and graph_task_id() == -1:
            raise UnsupportedError(
                f"Site {site!r} runs several times in one forward pass; put an advreg.Tap at each"
                " of its calls and name those instead."
            )
        changed = self._change(site, tensor)
        if changed is not None:
            self._changed[site] = changed
        return changed

    def _leave(self, outputs: Any) -> Any:
        if self._seen is None or graph_task_id() != -1:
            return None
        # Precision plugins refuse gradients through the very tensor that the wrapper returns.
        self._seen.outputs, found = outputs, find_tensor(outputs)
        return None if found is None else found[1](found[0].view_as(found[0]))
