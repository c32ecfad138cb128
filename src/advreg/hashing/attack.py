"""Attacks on codes: projected gradient steps on the relaxed Hamming distance.

Away from the image's own code it is the attack of Yang, Liu, Deng and Tao (IEEE Transactions on
Cybernetics 2018, "Adversarial examples for Hamming space search", HAG); toward the code of another
image it is its targeted form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn

from advreg.attacks.gradient import input_gradient, pgd, unwarned
from advreg.attacks.threat import Threat
from advreg.errors import ConfigurationError, DataError
from advreg.hashing.codes import bits_of
from advreg.modes import evaluating
from advreg.units import Number

Range = tuple[float, float]


def reference(outputs: Tensor, bits: Tensor | None = None) -> Tensor:
    """Signed slopes t by which `relaxed_hamming` compares outputs with codes.

    t_j is 1 / scale where bit j is 1 and -1 / scale where it is 0. The scale is the mean of |u| of
    the image: with it the sigmoid has a slope however large a network's outputs are, for a network
    must not seem robust because its outputs saturate.

    Args:
        outputs: (B, q) outputs u of the clean images.
        bits: (B, q) bool, the codes to compare with; None is the images' own.
    """
    own = bits_of(outputs) if bits is None else bits
    scale = outputs.abs().mean(1, keepdim=True).clamp_min(torch.finfo(outputs.dtype).tiny ** 0.5)
    return (own.to(outputs.dtype) * 2 - 1) / scale


def relaxed_hamming(outputs: Tensor, slopes: Tensor) -> Tensor:
    """The relaxed Hamming distance sum_j sigmoid(-t_j u_j) of each image from a code, (B,).

    Where the scale goes to 0 it is the number of bits that differ.

    Args:
        outputs: (B, q) outputs u.
        slopes: (B, q), as `reference` returns them.
    """
    return torch.sigmoid(-slopes * outputs).sum(1)


@dataclass(frozen=True, eq=False)
class CodeAttack:
    """What an attack on codes reached.

    Attributes:
        inputs: (B, C, H, W), attacked.
        distances: (B,) int64, bits by which the code now differs from the code that was to be left,
            or reached.
        no_gradient: (B,) bool, images at which the gradient was zero everywhere before the first
            step: the attack did not see them.
    """

    inputs: Tensor
    distances: Tensor
    no_gradient: Tensor


def attack_codes(
    network: nn.Module,
    inputs: Tensor,
    threat: Threat,
    steps: int = 20,
    step_size: Number | None = None,
    restarts: int = 1,
    *,
    toward: Tensor | None = None,
    generator: torch.Generator | None = None,
    input_range: Range | None = (0.0, 1.0),
) -> CodeAttack:
    """Moves images within a threat model so that their codes change the most.

    Projected gradient ascent on the relaxed Hamming distance from the own code, or descent on the
    one from another, each run from a random start. The network runs in evaluation mode and is left
    as it is found.

    Args:
        network: Maps (B, C, H, W) to outputs (B, q).
        inputs: (B, C, H, W) within `input_range`.
        threat: The threat model, `Linf` or `L2`.
        steps: Gradients taken a run.
        step_size: Length of a step; 2.5 * epsilon / steps where not given.
        restarts: Runs; of each image the one is kept whose code is farthest from the own, or
            nearest to the other one.
        toward: (B, q) bool, codes to reach; None moves away from the own.
        generator: Where the random starts come from.
        input_range: What the result is clamped into; None for no limits.

    Raises:
        ConfigurationError: A setting cannot work.
        DataError: The codes to reach have another shape, or an output is not a number.
    """
    if not isinstance(restarts, int) or restarts < 1:
        raise ConfigurationError(f"restarts is {restarts!r}; give a whole number of at least 1.")
    with evaluating(network):
        with torch.no_grad():
            outputs = network(inputs)
        if toward is not None and (toward.shape != outputs.shape or toward.dtype != torch.bool):
            raise DataError(
                f"The codes to reach are {toward.dtype} of shape {tuple(toward.shape)}; give bool"
                f" of shape {tuple(outputs.shape)}."
            )
        slopes = reference(outputs, toward)
        gradient = input_gradient(network, inputs, slopes, relaxed_hamming)
        unseen = (gradient == 0).flatten(1).all(1)

        def run() -> CodeAttack:
            with unwarned():
                attacked = pgd(
                    network,
                    inputs,
                    slopes,
                    threat,
                    steps,
                    step_size,
                    targeted=toward is not None,
                    generator=generator,
                    criterion=relaxed_hamming,
                    input_range=input_range,
                )
            with torch.no_grad():
                changed = bits_of(network(attacked)) != (slopes > 0)
            return CodeAttack(attacked, changed.sum(1), unseen)

        return reduce(partial(_worse, toward is not None), (run() for _ in range(restarts)))


def _worse(targeted: bool, one: CodeAttack, other: CodeAttack) -> CodeAttack:
    """Of each image the one of two results that the attack has more of."""
    more = other.distances < one.distances if targeted else other.distances > one.distances
    rows = more.view(-1, *[1] * (one.inputs.ndim - 1))
    return CodeAttack(
        torch.where(rows, other.inputs, one.inputs),
        torch.where(more, other.distances, one.distances),
        one.no_gradient,
    )
