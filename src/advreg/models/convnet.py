"""A small convolutional network for images from 8x8 pixels up."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from advreg.models.layers import Classifier, Constants, ConvBlock


class ConvNet(Classifier):
    """Four blocks of width 32, 32, 64 (stride 2) and 64, a 4x4 average pool, a linear layer.

    75,434 parameters for ten classes and one channel, whatever the image size; of 8x8 images the
    pool changes nothing. The weights start as torch draws them, whose smaller scale trains
    better in the few steps that this network is for. Sites: `blocks.0` to `blocks.3`.

    Args:
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        mean: Channel means of the data.
        std: Channel standard deviations of the data.
    """

    def __init__(
        self, num_classes: int, in_channels: int, mean: Constants = None, std: Constants = None
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.blocks = nn.Sequential(
            ConvBlock(in_channels, 32), ConvBlock(32, 32), ConvBlock(32, 64, 2), ConvBlock(64, 64)
        )
        self.linear = nn.Linear(64 * 4 * 4, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        features = self.blocks(self.normalize(inputs))
        height, width = features.shape[2:]
        if height % 4 or width % 4:
            pooled = F.adaptive_avg_pool2d(features, 4)
        else:  # the same, and on a GPU with a gradient that is the same from run to run
            pooled = F.avg_pool2d(features, (height // 4, width // 4))
        return self.linear(pooled.flatten(1))
