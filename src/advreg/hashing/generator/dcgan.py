"""SN-DCGAN: the convolutional generator and critic of Miyato et al. (ICLR 2018, table 3).

arXiv 1802.05957. Images are (B, C, H, W) in [-1, 1] between the two; `Generator.images` are in
[0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from advreg.errors import ConfigurationError

BASES = (4, 7)
"""Heights from which images grow by doubling."""


def doublings(size: int) -> tuple[int, int]:
    """The height that an image of `size` pixels grows from, and how often it doubles.

    Raises:
        ConfigurationError: It is not 4 or 7 times a power of two.
    """
    for base in BASES:
        times = max((size // base).bit_length() - 1, 0)
        if times and base * 2**times == size:
            return base, times
    raise ConfigurationError(
        f"Images have {size} pixels a side and a generator makes 8, 14, 16, 28, 32, 56 or 64;"
        " enlarge, cut or pad them."
    )


class Generator(nn.Module):
    """Base of the generators: from latents (B, L) to images (B, C, H, W) in [-1, 1].

    Args:
        latent: L.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent

    def latents(self, count: int, random: torch.Generator) -> Tensor:
        """Standard normal latents, (count, L), on the CPU."""
        return torch.randn(count, self.latent, generator=random)

    def images(self, latents: Tensor) -> Tensor:
        """The images of latents in [0, 1]."""
        return (self(latents) + 1) / 2


class Critic(nn.Module):
    """Base of the critics: from images in [-1, 1] to a score (B,), by way of features.

    Attributes:
        head: The linear layer from features to score.
    """

    head: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """What the score is linear in, (B, F)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """The scores, (B,)."""
        scores: Tensor = self.head(self.features(images))
        return scores[:, 0]


class DCGenerator(Generator):
    """A linear layer, transposed convolutions that double the size, and a last convolution.

    Channels halve as the size doubles, down to `width`; batch normalisation and ReLU between.

    Args:
        size: Height and width of the images.
        channels: Of the images.
        latent: Numbers that an image is made from.
        width: Channels at the images' own size.
    """

    def __init__(self, size: int, channels: int, latent: int, width: int) -> None:
        super().__init__(latent)
        self.base, times = doublings(size)
        self.wide = width * 2**times
        self.linear = nn.Linear(latent, self.wide * self.base**2)
        layers: list[nn.Module] = []
        for time in range(times):
            inner = self.wide // 2**time
            layers += [
                nn.BatchNorm2d(inner),
                nn.ReLU(),
                nn.ConvTranspose2d(inner, inner // 2, 4, stride=2, padding=1),
            ]
        self.blocks = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        normal_weights(self)

    def forward(self, latents: Tensor) -> Tensor:
        """Takes (B, L); returns (B, C, H, W) in [-1, 1]."""
        start = self.linear(latents).view(-1, self.wide, self.base, self.base)
        return self.last(self.blocks(start)).tanh()


class DCCritic(Critic):
    """Convolutions in pairs, one of which halves the size, with spectral normalisation.

    Args:
        size: Height and width of the images.
        channels: Of the images.
        width: Channels at the images' own size; they double as the size halves.
    """

    def __init__(self, size: int, channels: int, width: int) -> None:
        super().__init__()
        base, times = doublings(size)
        layers: list[nn.Module] = []
        inner = channels
        for time in range(times):
            outer = width * 2**time
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.LeakyReLU(0.1)]
            layers += [nn.Conv2d(outer, outer, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
            inner = outer
        outer = width * 2**times
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.LeakyReLU(0.1)]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(outer * base**2, 1)
        normal_weights(self)
        normalise(self)

    def features(self, images: Tensor) -> Tensor:
        """See `Critic.features`."""
        return self.blocks(images).flatten(1)


def normal_weights(network: nn.Module, deviation: float = 0.02) -> None:
    """Draws all weights from one normal distribution; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def normalise(network: nn.Module) -> None:
    """Puts spectral normalisation on every linear layer and convolution."""
    for module in list(network.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            spectral_norm(module)


def pooled(features: Tensor) -> Tensor:
    """The sum over pixels of ReLU features, (B, F)."""
    return functional.relu(features).sum((2, 3))
