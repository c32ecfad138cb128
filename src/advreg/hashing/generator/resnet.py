"""SNGAN-ResNet: the residual generator and critic of Miyato et al. (ICLR 2018, table 4)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from advreg.hashing.generator.dcgan import Critic, Generator, doublings, normalise, pooled


class UpBlock(nn.Module):
    """Doubles the size: two convolutions after batch normalisation and ReLU, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', 2 H, 2 W)."""
        residual = functional.interpolate(functional.relu(self.norm1(inputs)), scale_factor=2)
        residual = self.conv2(functional.relu(self.norm2(self.conv1(residual))))
        return residual + self.shortcut(functional.interpolate(inputs, scale_factor=2))


class DownBlock(nn.Module):
    """Two convolutions and a shortcut, then a 2x2 average where `down`.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        down: Whether to halve the size.
        first: Whether the input is the image, which no ReLU comes before.
    """

    def __init__(
        self, in_channels: int, out_channels: int, down: bool, first: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels and not down
        self.shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1)
        self.down, self.first = down, first

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H, W), halved where asked for."""
        residual = inputs if self.first else functional.relu(inputs)
        residual = self.conv2(functional.relu(self.conv1(residual)))
        shortcut = inputs if self.shortcut is None else self.shortcut(inputs)
        total = residual + shortcut
        return functional.avg_pool2d(total, 2) if self.down else total


class ResNetGenerator(Generator):
    """A linear layer and blocks that double the size, all of one width.

    Args:
        size: Height and width of the images.
        channels: Of the images.
        latent: Numbers that an image is made from.
        width: Channels of every block; the paper's is 256.
    """

    def __init__(self, size: int, channels: int, latent: int, width: int) -> None:
        super().__init__(latent)
        self.base, times = doublings(size)
        self.linear = nn.Linear(latent, width * self.base**2)
        self.blocks = nn.Sequential(*(UpBlock(width, width) for _ in range(times)))
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        _xavier(self)

    def forward(self, latents: Tensor) -> Tensor:
        """Takes (B, L); returns (B, C, H, W) in [-1, 1]."""
        start = self.linear(latents)
        features = self.blocks(start.view(len(start), -1, self.base, self.base))
        return self.last(functional.relu(self.norm(features))).tanh()


class ResNetCritic(Critic):
    """Two blocks that halve the size and two that do not, the sum over pixels, a linear layer.

    Args:
        size: Height and width of the images.
        channels: Of the images.
        width: Channels of every block; the paper's is 128.
    """

    def __init__(self, size: int, channels: int, width: int) -> None:
        super().__init__()
        _, times = doublings(size)
        halved = [DownBlock(channels, width, True, first=True)]
        halved += [DownBlock(width, width, True) for _ in range(max(times - 2, 0))]
        self.blocks = nn.Sequential(
            *halved, DownBlock(width, width, False), DownBlock(width, width, False)
        )
        self.head = nn.Linear(width, 1)
        _xavier(self)
        normalise(self)

    def features(self, images: Tensor) -> Tensor:
        """See `Critic.features`."""
        return pooled(self.blocks(images))


def _xavier(network: nn.Module) -> None:
    """Glorot's uniform weights, of convolutions inside blocks times the square root of two."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            gain = 2**0.5 if name.endswith(("conv1", "conv2")) else 1.0
            nn.init.xavier_uniform_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
