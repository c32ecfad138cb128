"""Moving a network's weights for a pass, and leaving them and their gradients as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Moves = list[tuple[nn.Parameter, Tensor]]
"""Parameters, and for each its gradient or how far it is moved."""


@contextmanager
def gradients_apart(network: nn.Module) -> Iterator[Callable[[], Moves]]:
    """Within it every parameter's gradient starts at none; on leaving, the earlier ones are back.

    Yields:
        A function that returns the gradients so far, of the parameters that have one.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    earlier = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        # An embedding's may be sparse, which not every operation takes.
        yield lambda: [(one, one.grad.to_dense()) for one in parameters if one.grad is not None]
    finally:
        for parameter, gradient in zip(parameters, earlier, strict=True):
            parameter.grad = gradient


@contextmanager
def shifted(moves: Iterable[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Within it the parameters are moved.

    On leaving, also by an exception, they are what they were, bit for bit.
    """
    saved = []
    try:
        with torch.no_grad():
            for parameter, move in moves:
                saved.append((parameter, parameter.detach().clone()))
                parameter.add_(move)
        torch.clear_autocast_cache()  # it holds half-precision copies of the weights
        yield
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)
        torch.clear_autocast_cache()
