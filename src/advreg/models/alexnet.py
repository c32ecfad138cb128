"""AlexNet in its CIFAR form."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from advreg.models.layers import Classifier, Constants


class Block(nn.Module):
    """A convolution and ReLU; where `pool`, 2x2 max pooling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.pool = pool

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes and returns (B, C, H, W), smaller by stride and pooling."""
        features = F.relu(self.conv(inputs))
        return F.max_pool2d(features, 2) if self.pool else features


class AlexNet(Classifier):
    """Five convolutions, an average over pixels and one linear layer; no normalisation layers.

    The convolutions are those of the single-column AlexNet (Krizhevsky 2014, arXiv 1404.5997),
    the first one padded by 5 so that 32x32 images leave a pixel at the end. 2,472,266 parameters
    for ten classes and three channels, 2,469,696 of them in the convolutions. Sites: `blocks.0`
    to `blocks.4`.

    Args:
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        mean: Channel means of the data.
        std: Channel standard deviations of the data.
    """

    smallest_image = 32

    def __init__(
        self, num_classes: int, in_channels: int, mean: Constants = None, std: Constants = None
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.blocks = nn.Sequential(
            Block(in_channels, 64, kernel=11, stride=4, padding=5, pool=True),
            Block(64, 192, kernel=5, padding=2, pool=True),
            Block(192, 384),
            Block(384, 256),
            Block(256, 256, pool=True),
        )
        self.linear = nn.Linear(256, num_classes)
        self.initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        return self.linear(self.blocks(self.normalize(inputs)).mean((2, 3)))
