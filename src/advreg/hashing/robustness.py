"""Retrieval under attack: the queries attacked, the database as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advreg.attacks.threat import Linf
from advreg.errors import ConfigurationError, MaskedAttackWarning
from advreg.hashing.attack import attack_codes
from advreg.hashing.codes import bits_of, outputs_of
from advreg.hashing.packing import CodeFormat
from advreg.hashing.relevance import Relevance
from advreg.hashing.retrieval import rank
from advreg.hashing.ties import average_precision
from advreg.modes import evaluating
from advreg.units import Number

MOST_UNSEEN = 0.05
"""Share of images without a gradient above which an attack is called masked."""

WIDE = 64 / 255
"""A budget at which no network withstands an attack that sees it."""

WIDE_STEPS = 20
WIDE_IMAGES = 200
WIDE_SHARE = 0.25
"""Share of the bits that the attack must change there."""


def map_under_attack(
    network: nn.Module,
    images: Tensor,
    database: np.ndarray,
    relevance: Relevance,
    bits: int,
    *,
    epsilons: Sequence[Number] = ("2/255", "8/255"),
    steps: Sequence[int] = (20, 100),
    restarts: int = 1,
    batch_size: int = 250,
    seed: int = 0,
    report: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Tie-aware mAP of attacked queries, each query's worst over the clean one and all restarts.

    Beside every attack stand random signs of its size, in as many draws. An attack that changes
    no more bits than they do, or that finds no gradient, is called masked, and warned of, and so
    are all attacks where one at 64/255 leaves most bits as they are: such a mAP is no sign of
    robustness.

    Args:
        network: Maps (B, C, H, W) in [0, 1] to outputs (B, q).
        images: (Q, C, H, W) uint8 queries.
        database: (N, q / 8) uint8 packed codes of clean images.
        relevance: Of the queries and the database.
        bits: q.
        epsilons: L-infinity budgets; fractions are read.
        steps: Of the attack; each number is an attack of its own.
        restarts: Of each attack.
        batch_size: Images attacked at once.
        seed: Of the random starts and of the noise.
        report: Called with a text before each attack.

    Returns:
        `clean`: the mAP; `attacks`: one mapping for each budget and number of steps, with
        `epsilon`, `steps`, `map`, `noise_map`, `bits_changed`, `noise_bits_changed` (means),
        `no_gradient` (a share of the queries) and `masked`, a sentence or None; `wide`: the share
        of the bits that 20 steps at 64/255 change.

    Raises:
        ConfigurationError: A setting cannot work.
    """
    if not epsilons or not steps:
        raise ConfigurationError("No attack is named; give at least one epsilon and steps.")
    layout = CodeFormat(bits)
    threats = [(str(epsilon), Linf(epsilon)) for epsilon in epsilons]
    clean_bits = bits_of(outputs_of(network, images, batch_size))

    def precision(found: Tensor) -> np.ndarray:
        rankings = rank(layout.pack(found), database, relevance, bits, ks=())
        return average_precision(rankings.counts, rankings.hits).expected

    clean = precision(clean_bits)
    first = images[:WIDE_IMAGES]
    reached, _ = _attacked_bits(network, first, Linf(WIDE), WIDE_STEPS, batch_size, seed)
    wide = _changed(clean_bits[: len(first)], [reached]) / bits
    attacks: list[dict[str, Any]] = []
    for text, threat in threats:
        noisy = [
            _noisy_bits(network, images, threat, batch_size, seed + draw)
            for draw in range(restarts)
        ]
        worst_noise = np.fmin.reduce([clean, *map(precision, noisy)])
        for count in steps:
            if report is not None:
                report(f"attack with {count} steps at {text}")
            runs, unseen = [], torch.zeros(0, dtype=torch.bool)
            for run in range(restarts):
                found, unseen = _attacked_bits(
                    network, images, threat, count, batch_size, seed + run
                )
                runs.append(found)
            worst = np.fmin.reduce([clean, *map(precision, runs)])
            figures = {
                "epsilon": text,
                "steps": count,
                "map": float(np.nanmean(worst)),
                "noise_map": float(np.nanmean(worst_noise)),
                "bits_changed": _changed(clean_bits, runs),
                "noise_bits_changed": _changed(clean_bits, noisy),
                "no_gradient": float(unseen.float().mean()),
            }
            reason = masked(figures, wide) if threat.epsilon else None
            if reason is not None:
                warnings.warn(reason, MaskedAttackWarning, stacklevel=2)
            attacks.append({**figures, "masked": reason})
    return {"clean": float(np.nanmean(clean)), "attacks": attacks, "wide": wide}


def masked(figures: dict[str, Any], wide: float) -> str | None:
    """Whether an attack's figures say nothing of robustness, in a sentence; None where they do.

    Args:
        figures: One of the attacks of `map_under_attack`.
        wide: The share of the bits that an attack at 64/255 changes.
    """
    where = f"The attack with {figures['steps']} steps at {figures['epsilon']}"
    if figures["no_gradient"] > MOST_UNSEEN:
        return (
            f"{where} found no gradient at {figures['no_gradient']:.0%} of the queries, so that its"
            " mAP is no sign of robustness; attack it without gradients or from another network."
        )
    noise = figures["noise_bits_changed"]
    if noise > 0 and figures["bits_changed"] <= noise:
        return (
            f"{where} changed {figures['bits_changed']:.1f} bits of a code and random signs of its"
            f" size {noise:.1f}: its gradient leads nowhere, and its mAP is no sign of robustness;"
            " attack it without gradients or from another network."
        )
    if wide < WIDE_SHARE:
        return (
            f"{where} is no sign of robustness, since the same attack at 64/255 changed {wide:.0%}"
            " of the bits alone; attack without gradients or from another network."
        )
    return None


def _changed(clean: Tensor, found: Sequence[Tensor]) -> float:
    """The mean over images of the most bits changed in any run."""
    return float(torch.stack([(clean != bits).sum(1) for bits in found]).amax(0).float().mean())


def _attacked_bits(
    network: nn.Module, images: Tensor, threat: Linf, steps: int, batch_size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The bits of attacked images, (Q, q) bool, and which had no gradient, (Q,) bool."""
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    bits, unseen = [], []
    for part in images.split(batch_size):
        found = attack_codes(
            network, part.to(device).float() / 255, threat, steps, generator=generator
        )
        with evaluating(network), torch.no_grad():
            bits.append(bits_of(network(found.inputs)).cpu())
        unseen.append(found.no_gradient.cpu())
    return torch.cat(bits), torch.cat(unseen)


def _noisy_bits(
    network: nn.Module, images: Tensor, threat: Linf, batch_size: int, seed: int
) -> Tensor:
    """The bits of images with signs of the threat's size added, (Q, q) bool."""
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    bits = []
    with evaluating(network), torch.no_grad():
        for part in images.split(batch_size):
            signs = torch.randint(2, part.shape, generator=generator).float() * 2 - 1
            noisy = (part.float() / 255 + threat.epsilon * signs).clamp(0, 1)
            bits.append(bits_of(network(noisy.to(device))).cpu())
    return torch.cat(bits)
