"""Attacks: how a bad input is found."""

from advreg.attacks.gradient import correct, cross_entropies, fgsm, input_gradient, pgd
from advreg.attacks.threat import L2, Linf, Threat

__all__ = [
    "L2",
    "Linf",
    "Threat",
    "correct",
    "cross_entropies",
    "fgsm",
    "input_gradient",
    "pgd",
]
