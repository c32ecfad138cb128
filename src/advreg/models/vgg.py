"""VGG networks with batch normalisation, in their CIFAR form.

The convolutions are configurations A (11 layers) and D (16) of Simonyan and Zisserman, ICLR 2015
(arXiv 1409.1556, table 1). The paper's three linear layers for ImageNet give way to one, as is
usual on CIFAR; each convolution's bias is the shift of the batch normalisation after it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from advreg.models.layers import Classifier, Constants, ConvBlock

WIDTHS = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
"""Output channels of each convolution; a pooling layer ends each group."""


class PooledBlock(ConvBlock):
    """A 3x3 convolution, batch normalisation, ReLU and 2x2 max pooling."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H / 2, W / 2)."""
        return F.max_pool2d(super().forward(inputs), 2)


class VGG(Classifier):
    """A chain of 3x3 convolutions, halved five times, and one linear layer.

    For ten classes and three channels, 9,228,362 parameters at depth 11 and 14,724,042 at depth
    16; 9,220,480 and 14,714,688 of them are the paper's convolutions and biases. Sites: `blocks.0`
    to `blocks.7` or `blocks.12`, one a convolution, after its pooling where there is one.

    Args:
        depth: 11 or 16.
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        mean: Channel means of the data.
        std: Channel standard deviations of the data.
    """

    smallest_image = 32

    def __init__(
        self,
        depth: int,
        num_classes: int,
        in_channels: int,
        mean: Constants = None,
        std: Constants = None,
    ) -> None:
        super().__init__(in_channels, mean, std)
        blocks: list[ConvBlock] = []
        channels = in_channels
        for group in WIDTHS[depth]:
            for width in group[:-1]:
                blocks.append(ConvBlock(channels, width))
                channels = width
            blocks.append(PooledBlock(channels, group[-1]))
            channels = group[-1]
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, num_classes)
        self.initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        return self.linear(self.blocks(self.normalize(inputs)).mean((2, 3)))
