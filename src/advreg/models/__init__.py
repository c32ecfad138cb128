"""Networks for small images; normalisation is the first layer of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from advreg.errors import ConfigurationError
from advreg.models.alexnet import AlexNet
from advreg.models.convnet import ConvNet
from advreg.models.layers import Classifier, Constants, Normalize
from advreg.models.resnet import ResNet
from advreg.models.vgg import VGG
from advreg.models.wideresnet import WideResNet

__all__ = ["MODELS", "Classifier", "Normalize", "build_model"]

MODELS: dict[str, Callable[..., Classifier]] = {
    "convnet": ConvNet,
    "resnet20": partial(ResNet, 20),
    "resnet32": partial(ResNet, 32),
    "resnet44": partial(ResNet, 44),
    "resnet56": partial(ResNet, 56),
    "resnet110": partial(ResNet, 110),
    "wrn-16-4": partial(WideResNet, 16, 4),
    "wrn-28-10": partial(WideResNet, 28, 10),
    "vgg11": partial(VGG, 11),
    "vgg16": partial(VGG, 16),
    "alexnet": AlexNet,
}
"""Builds each network from (num_classes, in_channels, mean, std)."""


def build_model(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    mean: Constants = None,
    std: Constants = None,
) -> Classifier:
    """Builds a network by name, its weights drawn from torch's global random state.

    Args:
        name: One of `MODELS`.
        num_classes: Number of outputs, at least 2.
        in_channels: Channels of the input: 1 for grey images, 3 for colour.
        image_size: Height and width of the images; of the smaller one where they differ.
        mean: Channel means of the data in [0, 1], such as `ImageData.statistics()` gives; 0.5 by
            default.
        std: Channel standard deviations likewise; 0.25 by default.

    Returns:
        A network from (B, C, H, W) in [0, 1] to (B, num_classes) logits, in training mode.

    Raises:
        ConfigurationError: The name is unknown, or a number cannot work.
    """
    if name not in MODELS:
        raise ConfigurationError(f"There is no model {name!r}; choose one of {', '.join(MODELS)}.")
    for setting, value, least in (("num_classes", num_classes, 2), ("in_channels", in_channels, 1)):
        if not isinstance(value, int) or value < least:
            raise ConfigurationError(
                f"{setting} is {value!r}; give a whole number of at least {least}."
            )
    model = MODELS[name](num_classes, in_channels, mean, std)
    if image_size < model.smallest_image:
        raise ConfigurationError(
            f"{name} needs images of at least {model.smallest_image} pixels a side and these have"
            f" {image_size}; enlarge them, or choose convnet or a resnet (8 pixels and up)."
        )
    return model
