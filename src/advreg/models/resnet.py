"""The residual networks for CIFAR of He et al., CVPR 2016 (arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from advreg.models.layers import Classifier, Constants, ConvBlock, stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (the paper's option A).

    Where the width doubles, the shortcut takes every second pixel and fills the new channels
    with zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H / stride, W / stride)."""
        residual = F.relu(self.norm1(self.conv1(inputs)))
        residual = self.norm2(self.conv2(residual))
        shortcut = inputs
        if self.new_channels:
            shortcut = inputs[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(residual + shortcut)


class ResNet(Classifier):
    """6n + 2 layers in three stages of n blocks, 16, 32 and 64 wide.

    0.27, 0.46, 0.66, 0.85 and 1.7 million parameters at depth 20, 32, 44, 56 and 110 (the
    paper's table 6); depth 8 is not in the paper. Sites: `stem`, `layer1` to `layer3`, and
    `layer1.0` and so on.

    Args:
        depth: Number of layers with weights, 6n + 2.
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        mean: Channel means of the data.
        std: Channel standard deviations of the data.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        in_channels: int,
        mean: Constants = None,
        std: Constants = None,
    ) -> None:
        super().__init__(in_channels, mean, std)
        count = (depth - 2) // 6
        self.stem = ConvBlock(in_channels, 16)
        self.layer1 = stage(BasicBlock, 16, 16, 1, count)
        self.layer2 = stage(BasicBlock, 16, 32, 2, count)
        self.layer3 = stage(BasicBlock, 32, 64, 2, count)
        self.linear = nn.Linear(64, num_classes)
        self.initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        features = self.stem(self.normalize(inputs))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean((2, 3)))
