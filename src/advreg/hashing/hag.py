"""Training against the attack on codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advreg import _torch_compat
from advreg.attacks import pgd
from advreg.attacks.gradient import unwarned
from advreg.batch import Batch
from advreg.hashing.attack import reference, relaxed_hamming
from advreg.methods import Criterion
from advreg.methods.pgd import PGD
from advreg.modes import evaluating


@dataclass
class HAG(PGD):
    """The loss at images moved away from their own codes, by the steps of HAG.

    The attack is that of Yang et al. 2018 (`attack_codes`): k projected steps of gradient ascent on
    the relaxed Hamming distance from the code that the clean image has now, from a random start and
    in evaluation mode. Methods of classifiers climb the loss instead, which needs labels and other
    images of the mini-batch; this needs neither, and treats generated images as it does real ones.
    Named `--method advreg.hashing.hag:HAG`.

    Args:
        epsilon: The radius of the ball in units of the input; fractions such as "8/255" are read.
        step_size: Length of a step; None is 2.5 * epsilon / steps, 2/255 at the defaults.
        input_range: Attacked inputs are clamped to it; None takes the network's own.
        seed: Of the random starts.
        norm: Of the ball, "linf" or "l2" (the length of an example's perturbation).
        steps: Gradient steps k a mini-batch.
    """

    name: ClassVar[str] = "hag"

    def attacked(self, network: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """See `AdversarialTraining.attacked`; the clean pass is not counted in `passes`."""
        inputs = batch.inputs.detach()
        with evaluating(network), unwarned():
            with torch.no_grad():
                slopes = reference(network(inputs))
            if _torch_compat.RELEASE < (2, 11):  # it would use these casts for gradients too
                torch.clear_autocast_cache()
            return pgd(
                network,
                inputs,
                slopes,
                self.threat,
                self.steps,
                self.step_size,
                generator=self.generator(inputs),
                criterion=relaxed_hamming,
                input_range=self.limits,
            )
