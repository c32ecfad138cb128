"""Attacks: how a bad input is found."""

from advreg.attacks.autoattack import autoattack, has_autoattack, square
from advreg.attacks.blackbox import noise, transfer
from advreg.attacks.gradient import fgsm, input_gradient, pgd
from advreg.attacks.lots import LotsResult, lots
from advreg.attacks.threat import L2, Linf, Threat
from advreg.losses import correct, cross_entropies

__all__ = [
    "L2",
    "Linf",
    "LotsResult",
    "Threat",
    "autoattack",
    "correct",
    "cross_entropies",
    "fgsm",
    "has_autoattack",
    "input_gradient",
    "lots",
    "noise",
    "pgd",
    "square",
    "transfer",
]
