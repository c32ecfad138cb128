"""A site's operations as a compiler takes them into its graph."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advreg import _torch_compat
from advreg.checks import widened
from advreg.layerwise.compiled.ports import GraphPort, GraphPorts
from advreg.layerwise.kernels import add_signs, pack_signs, round_towards
from advreg.layerwise.packed import PackedWords, as_differentiable
from advreg.layerwise.perturbation import NO_LIMITS
from advreg.layerwise.site import Site
from advreg.tensors import wide


def perturb(ports: GraphPorts, site: Site, index: int, activation: Tensor) -> Tensor:
    """The perturbed activation, as a part of the graph.

    Args:
        ports: Where memories go into the graph and out of it.
        site: The site.
        index: Of its call.
        activation: Any shape with a dimension that counts examples.
    """
    # Memories have a fixed number of rows, so that each size of a mini-batch is its own graph.
    shape = tuple(len(range(size)) for size in activation.shape)
    if len(shape) <= site.rule.batch_dim:
        site.check(activation)
    ports.prepare(site, index, shape, activation.dtype, activation.device)
    call = site.calls[index]
    port, words = ports.ports[site.name][index], call.memory.words  # type: ignore[attr-defined]
    dim = site.rule.batch_dim  # read here, so that words of another shape are another graph
    assert (words.shape[:dim], words.shape[dim + 1 :]) == (shape[:dim], shape[dim + 1 :])
    scale = port.scale
    if site.relative:
        wide = activation.detach().to(torch.promote_types(activation.dtype, torch.float32))
        mean = wide.square().sum() / max(math.prod(shape), 1)
        call.rho = mean.sqrt().float().nan_to_num(0.0, 0.0, 0.0)
        scale = call.rho * scale.float()
    if site.limits != NO_LIMITS:
        check_range(activation, site.limits)
    return add(activation, port, words, scale, site.limits, site.rounds_towards(activation))


def check_range(inputs: Tensor, limits: tuple[float, float]) -> None:
    """Refuses inputs that clamping would change, and NaN; on a GPU without waiting for it."""
    least, most = torch.aminmax(inputs.detach())
    lowest, highest = widened(limits, inputs.dtype)
    low, high = limits
    _torch_compat.assert_async(
        (least >= lowest) & (most <= highest),
        f"The inputs are outside the range from {low:g} to {high:g}, or not finite; scale them to"
        " it and normalise inside the model, or give input_range.",
    )


def add(
    activation: Tensor,
    port: GraphPort,
    words: PackedWords,
    scale: Tensor,
    limits: tuple[float, float],
    towards: bool,
) -> Tensor:
    """The perturbed activation; the gradient that comes back to it goes out by the port.

    Args:
        activation: Any shape, with B rows.
        port: Where the new S goes.
        words: S, of at least B rows.
        scale: A scalar.
        limits: The range that the sum is clamped to.
        towards: Whether it is rounded towards the activation, which is in half precision.
    """

    def perturb(activation: Tensor) -> Tensor:
        exact = wide(activation) if towards else activation
        perturbed = add_signs(exact, words.codes, scale, 1.0, words.order, *NO_LIMITS)
        if limits != NO_LIMITS:
            perturbed = perturbed.clamp(*limits)
        if towards:
            perturbed = round_towards(activation, perturbed)
        recorded: Tensor = _Record.apply(perturbed, port.codes, port.counts, words.order)
        return recorded

    # Computed again in the backward pass, from what the layer before keeps anyway.
    result: Tensor = checkpoint(perturb, activation, use_reentrant=False, preserve_rng_state=False)
    return result


class _Record(torch.autograd.Function):
    """Hands an activation on, its gradient too, and the gradient's signs out."""

    @staticmethod
    def forward(
        ctx: Any, activation: Tensor, codes: Tensor, counts: Tensor, order: tuple[int, ...]
    ) -> Tensor:
        ctx.form = order, codes.shape[1]
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        codes, counts = pack_signs(gradients[0], *ctx.form, 1)
        return gradients[0], as_differentiable(codes), counts, None
