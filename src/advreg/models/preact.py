"""Pre-activation ResNet-18 for CIFAR, as adversarial training uses it."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from advreg.models.layers import Classifier, Constants, scaled, stage


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after its own normalisation and ReLU.

    Where the shape changes, the shortcut is a 1x1 convolution of the block's input, or of the
    activated input (He et al., ECCV 2016) where `activated_shortcut`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activated_shortcut: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else None
        )
        self.activated_shortcut = activated_shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, C', H / stride, W / stride)."""
        activated = F.relu(self.norm1(inputs))
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        if self.shortcut is None:
            return residual + inputs
        return residual + self.shortcut(activated if self.activated_shortcut else inputs)


class PreActResNet(Classifier):
    """PreActResNet-18: four stages of two pre-activation blocks, 64 to 512 wide.

    The blocks are those of He et al., ECCV 2016 (arXiv 1603.05027). Four forms are in use, which
    differ in two places; the defaults are those of the repository of Fast AT (Wong et al., ICLR
    2020, arXiv 2001.03994), 11,172,170 parameters for ten classes, and 1,024 fewer without the last
    normalisation, as in RobustBench. Sites: `layer1` to `layer4`, and `layer1.0` and so on; they
    are sums before the next block's ReLU.

    Args:
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        mean: Channel means of the data.
        std: Channel standard deviations of the data.
        final_norm: Whether a normalisation and ReLU come before the mean over pixels, as in the
            paper. Without it, which is for networks that were trained so, the logits are sums of
            all blocks, too large to begin a training with.
        activated_shortcut: Whether a shortcut is projected from the activated input, as in the
            paper; Fast AT projects the block's input.
        width_factor: Multiplies every width, such as 0.125 for a test.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        mean: Constants = None,
        std: Constants = None,
        *,
        final_norm: bool = True,
        activated_shortcut: bool = False,
        width_factor: float = 1.0,
    ) -> None:
        super().__init__(in_channels, mean, std)
        block = partial(PreActBlock, activated_shortcut=activated_shortcut)
        width = scaled(64, width_factor)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.layer1 = stage(block, width, width, 1, 2)
        self.layer2 = stage(block, width, 2 * width, 2, 2)
        self.layer3 = stage(block, 2 * width, 4 * width, 2, 2)
        self.layer4 = stage(block, 4 * width, 8 * width, 2, 2)
        self.norm = nn.BatchNorm2d(8 * width) if final_norm else None
        self.linear = nn.Linear(8 * width, num_classes)
        self.initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        features = self.layer2(self.layer1(self.stem(self.normalize(inputs))))
        features = self.layer4(self.layer3(features))
        if self.norm is not None:
            features = F.relu(self.norm(features))
        return self.linear(features.mean((2, 3)))
