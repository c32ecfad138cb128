"""What critic and generator minimise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from advreg.hashing.generator.dcgan import Critic


@dataclass(frozen=True)
class Objective:
    """One game.

    Attributes:
        critic: From the scores of real and of generated images, (B,) each, to the critic's loss.
        generator: From the critic, real and generated images to the generator's loss.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Critic, Tensor, Tensor], Tensor]


def _hinge(real: Tensor, generated: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))."""
    return functional.relu(1 - real).mean() + functional.relu(1 + generated).mean()


def _raise_score(critic: Critic, real: Tensor, generated: Tensor) -> Tensor:
    """- E D(G(z))."""
    return -critic(generated).mean()


def _logistic(real: Tensor, generated: Tensor) -> Tensor:
    """- E log s(D(x)) - E log(1 - s(D(G(z)))), s the sigmoid."""
    return functional.softplus(-real).mean() + functional.softplus(generated).mean()


def _match_features(critic: Critic, real: Tensor, generated: Tensor) -> Tensor:
    """| E f(x) - E f(G(z)) |^2 over the number of features f of the critic."""
    wanted = critic.features(real).mean(0).detach()
    return (wanted - critic.features(generated).mean(0)).square().mean()


OBJECTIVES = {
    "hinge": Objective(_hinge, _raise_score),
    "feature_matching": Objective(_logistic, _match_features),
}
"""The hinge of SNGAN (Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018), and the feature
matching of the improved GAN (Salimans et al., NeurIPS 2016, arXiv 1606.03498, section 3.1)."""
