"""What the networks of this package have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.errors import ConfigurationError

Constants = float | Sequence[float] | None
"""A normalisation constant: one number, one a channel, or None for the neutral default."""


def _per_channel(name: str, value: Constants, default: float, in_channels: int) -> Tensor:
    given = default if value is None else value
    constants = [float(given)] * in_channels if isinstance(given, int | float) else [*given]
    if len(constants) != in_channels:
        raise ConfigurationError(
            f"{name} has {len(constants)} numbers and the input {in_channels} channels;"
            " give one number, or one for each channel."
        )
    if not all(map(math.isfinite, constants)) or (name == "std" and min(constants) <= 0):
        raise ConfigurationError(
            f"{name} is {value}; give finite numbers, and standard deviations above 0."
        )
    return torch.tensor(constants, dtype=torch.float32).reshape(-1, 1, 1)


class Normalize(nn.Module):
    """Subtracts a mean and divides by a standard deviation, channel by channel.

    Both are buffers: saved with the network, never trained.

    Args:
        in_channels: Channels of the input.
        mean: What to subtract, in the input's units; 0.5 by default.
        std: What to divide by; 0.25 by default, close to that of natural images.

    Raises:
        ConfigurationError: Not one number a channel, or a deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int, mean: Constants = None, std: Constants = None) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel("mean", mean, 0.5, in_channels))
        self.register_buffer("std", _per_channel("std", std, 0.25, in_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes and returns (B, C, H, W)."""
        return (inputs - self.mean) / self.std


class Classifier(nn.Module):
    """Base of the networks: inputs are (B, C, H, W) in `input_range`, outputs (B, K) logits.

    Args:
        in_channels: Channels of the input.
        mean: Channel means of the data, in [0, 1].
        std: Channel standard deviations of the data.

    Attributes:
        input_range: Smallest and largest value of a pixel.
        smallest_image: Height and width below which nothing would be left to classify.
    """

    input_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    smallest_image: ClassVar[int] = 8

    def __init__(self, in_channels: int, mean: Constants, std: Constants) -> None:
        super().__init__()
        self.normalize = Normalize(in_channels, mean, std)

    def initialise(self) -> None:
        """Draws the weights from normal distributions by fan-in (He et al. 2015); biases are 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                gain = math.sqrt(2) if isinstance(module, nn.Conv2d) else 1.0
                nn.init.normal_(module.weight, std=gain / math.sqrt(fan_in))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class ConvBlock(nn.Module):
    """A 3x3 convolution, batch normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        # The normalisation's shift takes the place of a bias.
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H / stride, W / stride)."""
        return F.relu(self.norm(self.conv(inputs)))


def stage(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    out_channels: int,
    stride: int,
    count: int,
) -> nn.Sequential:
    """`count` residual blocks in a row; the first one strides and changes the width."""
    later = (block(out_channels, out_channels, 1) for _ in range(count - 1))
    return nn.Sequential(block(in_channels, out_channels, stride), *later)


def scaled(width: int, factor: float) -> int:
    """A width times a factor, at least 1."""
    return max(1, round(width * factor))
