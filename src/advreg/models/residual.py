"""ResNet-18, -34 and -50 of He et al., CVPR 2016 (arXiv 1512.03385, table 1), with either stem."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from advreg.models.layers import Classifier, Constants, ConvBlock, scaled, stage

COUNTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each of the four stages, by depth."""

EXPANSION = 4
"""How many times wider a bottleneck's output is than its 3x3 convolution."""


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The paper's option B: a 1x1 convolution and a normalisation where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return None
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class ProjectionBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = projection(in_channels, out_channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H / stride, W / stride)."""
        residual = F.relu(self.norm1(self.conv1(inputs)))
        residual = self.norm2(self.conv2(residual))
        return F.relu(residual + (inputs if self.shortcut is None else self.shortcut(inputs)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a quarter of the width, and a shortcut.

    The 3x3 convolution strides, as in torchvision and unlike the paper, where the first does.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // EXPANSION
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = projection(in_channels, out_channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H / stride, W / stride)."""
        residual = F.relu(self.norm1(self.conv1(inputs)))
        residual = F.relu(self.norm2(self.conv2(residual)))
        residual = self.norm3(self.conv3(residual))
        return F.relu(residual + (inputs if self.shortcut is None else self.shortcut(inputs)))


class ImageNetStem(nn.Module):
    """A 7x7 convolution, batch normalisation, ReLU and 3x3 max pooling: a quarter of the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 7, 2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H / 4, W / 4)."""
        return F.max_pool2d(F.relu(self.norm(self.conv(inputs))), 3, 2, padding=1)


class ResidualNetwork(Classifier):
    """Four stages of residual blocks, 64, 128, 256 and 512 wide, a mean and a linear layer.

    With the CIFAR stem, a 3x3 convolution without stride or pooling, ResNet-18 has 11,173,962
    parameters for ten classes; with the ImageNet stem and 1,000 classes, ResNet-18 has 11,689,512
    and ResNet-50 25,557,032, torchvision's counts. Sites: `stem`, `layer1` to `layer4`, and
    `layer1.0` and so on.

    Args:
        depth: 18, 34 or 50; a ResNet-50 is made of bottlenecks four times as wide.
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        mean: Channel means of the data.
        std: Channel standard deviations of the data.
        width_factor: Multiplies every width, such as 0.125 for a test.
    """

    build_stem: ClassVar[type[ConvBlock] | type[ImageNetStem]] = ConvBlock

    def __init__(
        self,
        depth: int,
        num_classes: int,
        in_channels: int,
        mean: Constants = None,
        std: Constants = None,
        *,
        width_factor: float = 1.0,
    ) -> None:
        super().__init__(in_channels, mean, std)
        block = Bottleneck if depth == 50 else ProjectionBlock
        expansion = EXPANSION if depth == 50 else 1
        width = scaled(64, width_factor)
        outputs = [expansion * width * 2**index for index in range(4)]
        first, second, third, fourth = COUNTS[depth]
        self.stem = self.build_stem(in_channels, width)
        self.layer1 = stage(block, width, outputs[0], 1, first)
        self.layer2 = stage(block, outputs[0], outputs[1], 2, second)
        self.layer3 = stage(block, outputs[1], outputs[2], 2, third)
        self.layer4 = stage(block, outputs[2], outputs[3], 2, fourth)
        self.linear = nn.Linear(outputs[3], num_classes)
        self.initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        features = self.layer2(self.layer1(self.stem(self.normalize(inputs))))
        features = self.layer4(self.layer3(features))
        return self.linear(features.mean((2, 3)))


class ImageNetResNet(ResidualNetwork):
    """A `ResidualNetwork` with the stem for ImageNet."""

    smallest_image = 32
    build_stem = ImageNetStem
