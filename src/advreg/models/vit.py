"""A vision transformer for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg.errors import ConfigurationError, DataError
from advreg.models.layers import Classifier, Constants, scaled


class TokenStem(nn.Module):
    """Cuts an image into patches, maps each to a token, and adds a class token and positions."""

    def __init__(self, in_channels: int, width: int, patch: int, tokens: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, tokens + 1, width))
        nn.init.trunc_normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns (B, 1 + patches, D)."""
        patches = self.conv(images).flatten(2).transpose(1, 2)
        if patches.shape[1] + 1 != self.position.shape[1]:
            raise DataError(
                f"The images have {patches.shape[1]} patches and the network was built for"
                f" {self.position.shape[1] - 1}; build it with the images' own image_size."
            )
        return torch.cat([self.token.expand(len(patches), -1, -1), patches], 1) + self.position


class Attention(nn.Module):
    """Self-attention of several heads (Vaswani et al. 2017, equation 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Takes and returns (B, N, D)."""
        batch, count, width = tokens.shape
        shape = batch, count, 3, self.heads, width // self.heads
        queries, keys, values = self.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4)
        # Spelt out, because the fused attention has no second derivative, which penalties on the
        # input's gradient take; a small image has too few tokens to gain much by it.
        scores = queries @ keys.transpose(2, 3) * queries.shape[3] ** -0.5
        mixed = scores.softmax(3) @ values
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))


class TransformerBlock(nn.Module):
    """Attention and two linear layers, each after its own normalisation and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Takes and returns (B, N, D)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(Classifier):
    """ViT (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929) of DeiT's tiny size on small patches.

    Width 192, 12 blocks and 3 heads are DeiT-Ti's (Touvron et al., ICML 2021, arXiv 2012.12877),
    which has 5,717,416 parameters with patches of 16 pixels, 224x224 images and 1,000 classes;
    with patches of 4 pixels, 32x32 images and ten classes they are 5,362,762. Sites: `stem`,
    `blocks`, and `blocks.0` to `blocks.11`, each (B, 1 + patches, D).

    Args:
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        mean: Channel means of the data.
        std: Channel standard deviations of the data.
        image_size: Height and width of every image, a multiple of `patch`.
        patch: Height and width of a patch.
        width_factor: Multiplies the width of each head, such as 0.125 for a test.

    Raises:
        ConfigurationError: The image cannot be cut into patches.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        mean: Constants = None,
        std: Constants = None,
        *,
        image_size: int = 32,
        patch: int = 4,
        width_factor: float = 1.0,
    ) -> None:
        super().__init__(in_channels, mean, std)
        if image_size % patch:
            raise ConfigurationError(
                f"image_size is {image_size}; give a multiple of the patch's {patch} pixels."
            )
        heads = 3
        width = heads * scaled(64, width_factor)
        self.stem = TokenStem(in_channels, width, patch, (image_size // patch) ** 2)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(12)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        tokens = self.blocks(self.stem(self.normalize(inputs)))
        return self.linear(self.norm(tokens)[:, 0])
