"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from advreg.models.layers import Classifier, Constants, scaled, stage


class PreactivationBlock(nn.Module):
    """Two 3x3 convolutions, each after its own normalisation and ReLU.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H / stride, W / stride)."""
        activated = F.relu(self.norm1(inputs))
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        shortcut = inputs if self.shortcut is None else self.shortcut(activated)
        return residual + shortcut


class WideResNet(Classifier):
    """6n + 4 layers in three stages of n blocks, 16, 32 and 64 times `width` wide.

    2.7 million parameters for WRN-16-4, 36.5 million for WRN-28-10 and 46.16 million for
    WRN-34-10, the network of most robustness figures. Sites: `stem`, `layer1` to `layer3`, and
    `layer1.0` and so on; they are sums before the next block's ReLU.

    Args:
        depth: Number of layers, 6n + 4.
        width: How many times wider than a residual network of the same depth.
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        mean: Channel means of the data.
        std: Channel standard deviations of the data.
        width_factor: Multiplies `width`, such as 0.1 for a test.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int,
        in_channels: int,
        mean: Constants = None,
        std: Constants = None,
        *,
        width_factor: float = 1.0,
    ) -> None:
        super().__init__(in_channels, mean, std)
        widths = [scaled(base * width, width_factor) for base in (16, 32, 64)]
        count = (depth - 4) // 6
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = stage(PreactivationBlock, 16, widths[0], 1, count)
        self.layer2 = stage(PreactivationBlock, widths[0], widths[1], 2, count)
        self.layer3 = stage(PreactivationBlock, widths[1], widths[2], 2, count)
        self.norm = nn.BatchNorm2d(widths[2])
        self.linear = nn.Linear(widths[2], num_classes)
        self.initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        features = self.stem(self.normalize(inputs))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(F.relu(self.norm(features)).mean((2, 3)))
