"""Networks that map images to binary codes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from advreg.errors import ConfigurationError, DataError
from advreg.hashing.packing import CodeFormat
from advreg.modes import evaluating


def relaxed(outputs: Tensor) -> Tensor:
    """The relaxed bits h = sigmoid(u), in [0, 1], of outputs u of any shape."""
    return torch.sigmoid(outputs)


def bits_of(outputs: Tensor) -> Tensor:
    """The bits: 1 where h > 1/2, which is u > 0.

    A tie, h = 1/2, gives 0. It is decided on u, since h = 1/2 also for a u so near to 0 that the
    sigmoid rounds.

    Args:
        outputs: Outputs u of a `HashNetwork`, any shape.

    Returns:
        Bool, in the outputs' shape.

    Raises:
        DataError: An output is not a number.
    """
    if outputs.isnan().any():
        raise DataError(
            "An output of the hash network is not a number; train it with a lower learning rate."
        )
    return outputs > 0


class HashNetwork(nn.Module):
    """A network whose classifier has given way to a linear layer with an output for each bit.

    The outputs are u = W f(x) + b; relaxed bits are sigmoid(u) and bits are u > 0
    (`relaxed`, `bits_of`). The backbone is copied, and keeps the names of its modules: the new
    layer stands where the classifier stood.

    Args:
        backbone: Maps images (B, C, H, W) to the outputs of its last linear layer.
        bits: q, a multiple of 8 up to 256; or 12, which is padded to 16 when packed.
        classifier: The dotted name of the layer to cut off; None is the last linear layer.

    Attributes:
        backbone: The network from (B, C, H, W) to (B, q); methods are attached to it.
        format: The codes' layout in bytes.

    Raises:
        ConfigurationError: The number of bits cannot work, or there is no such layer.
    """

    def __init__(self, backbone: nn.Module, bits: int, classifier: str | None = None) -> None:
        super().__init__()
        self.format = CodeFormat(bits)
        self.backbone = copy.deepcopy(backbone)
        name = _last_linear(backbone) if classifier is None else classifier
        head = dict(self.backbone.named_modules()).get(name)
        if not isinstance(head, nn.Linear):
            raise ConfigurationError(
                f"The network has no linear layer {name!r} to cut off; name one with classifier."
            )
        layer = nn.Linear(head.in_features, bits).to(head.weight.device, head.weight.dtype)
        # Features of size one then give outputs of size one, where the sigmoid has a slope.
        nn.init.normal_(layer.weight, std=1 / math.sqrt(head.in_features))
        nn.init.zeros_(layer.bias)
        self.classifier = name
        self.backbone.set_submodule(name, layer)

    @property
    def bits(self) -> int:
        """q, the bits of a code."""
        return self.format.bits

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The smallest and largest value of a pixel, where the backbone declares them."""
        return getattr(self.backbone, "input_range", None)

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W); returns the outputs u, (B, q).

        Raises:
            ConfigurationError: The layer that was cut off was not the network's last one.
        """
        outputs = self.backbone(inputs)
        if not isinstance(outputs, Tensor) or outputs.shape != (len(inputs), self.bits):
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ConfigurationError(
                f"With {self.classifier!r} replaced the network returns {shape}, not"
                f" ({len(inputs)}, {self.bits}); name its last linear layer with classifier."
            )
        return outputs

    def encode(self, inputs: Tensor) -> np.ndarray:
        """The packed codes of images (B, C, H, W), in evaluation mode: (B, q / 8) uint8."""
        with evaluating(self), torch.no_grad():
            return self.format.pack(bits_of(self(inputs)))


def outputs_of(
    network: nn.Module,
    images: Tensor,
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> Tensor:
    """The outputs of a network for images in memory, in evaluation mode and float32.

    Args:
        network: Maps (B, C, H, W) in [0, 1] to (B, q).
        images: (N, C, H, W) uint8.
        batch_size: Images a forward pass.
        device: Where the network is; found from its parameters where not given.

    Returns:
        (N, q) float32, on the CPU.

    Raises:
        DataError: There are no images.
    """
    if not len(images):
        raise DataError("There are no images to encode; give at least one.")
    parameters: Iterable[Tensor] = network.parameters()
    place = next((parameter.device for parameter in parameters), torch.device("cpu"))
    place = place if device is None else torch.device(device)
    with evaluating(network), torch.no_grad():
        parts = [
            network(part.to(place).float() / 255).float().cpu() for part in images.split(batch_size)
        ]
    return torch.cat(parts)


def _last_linear(network: nn.Module) -> str:
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names or not names[-1]:
        raise ConfigurationError(
            "The network has no linear layer whose place the bits could take; give one that ends"
            " in a linear classifier."
        )
    return names[-1]
