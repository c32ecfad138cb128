"""Networks for images; normalisation is the first layer of each.

| name | network | parameters (ten classes, 32x32) |
| --- | --- | --- |
| `convnet` | four convolutions, for 8x8 images and up | 76,010 |
| `resnet8` | its smallest relative, for studies on a CPU | 75,290 |
| `resnet20`, `resnet32`, `resnet44`, `resnet56`, `resnet110` | He et al. 2016, for CIFAR | 0.27 to 1.7 M |
| `resnet18` | He et al. 2016 with a CIFAR stem (3x3, no pooling) | 11,173,962 |
| `preactresnet18` | pre-activation ResNet-18 as in Fast AT, CIFAR stem | 11,172,170 |
| `wrn-16-4`, `wrn-28-10`, `wrn-34-10` | wide residual networks | 2.7, 36.5, 46.2 M |
| `resnet18-imagenet`, `resnet50-imagenet` | torchvision's, ImageNet stem | 11.2, 23.5 M |
| `vit-tiny` | DeiT-Ti's width and depth on patches of 4 pixels | 5,362,762 |
| `vgg11`, `vgg16`, `alexnet` | their CIFAR forms | 9.2, 14.7, 2.5 M |
| `package.module:function` | what a function of the user's own returns | |
| `timm:NAME`, `transformers:NAME` | these libraries', where they are installed | |
"""  # noqa: E501

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from advreg.errors import ConfigurationError
from advreg.models.alexnet import AlexNet
from advreg.models.convnet import ConvNet
from advreg.models.layers import Classifier, Constants, Normalize
from advreg.models.own import check_network, check_trusted, is_own_code, own_model
from advreg.models.preact import PreActResNet
from advreg.models.residual import ImageNetResNet, ResidualNetwork
from advreg.models.resnet import ResNet
from advreg.models.robustbench import load_robustbench
from advreg.models.vgg import VGG
from advreg.models.vit import VisionTransformer
from advreg.models.wideresnet import WideResNet

__all__ = [
    "MODELS",
    "Classifier",
    "Normalize",
    "build_model",
    "check_network",
    "check_trusted",
    "is_own_code",
    "load_robustbench",
]

MODELS: dict[str, Callable[..., Classifier]] = {
    "convnet": ConvNet,
    "resnet8": partial(ResNet, 8),
    "resnet20": partial(ResNet, 20),
    "resnet32": partial(ResNet, 32),
    "resnet44": partial(ResNet, 44),
    "resnet56": partial(ResNet, 56),
    "resnet110": partial(ResNet, 110),
    "resnet18": partial(ResidualNetwork, 18),
    "preactresnet18": PreActResNet,
    "wrn-16-4": partial(WideResNet, 16, 4),
    "wrn-28-10": partial(WideResNet, 28, 10),
    "wrn-34-10": partial(WideResNet, 34, 10),
    "resnet18-imagenet": partial(ImageNetResNet, 18),
    "resnet50-imagenet": partial(ImageNetResNet, 50),
    "vit-tiny": VisionTransformer,
    "vgg11": partial(VGG, 11),
    "vgg16": partial(VGG, 16),
    "alexnet": AlexNet,
}
"""Builds each network from (num_classes, in_channels, mean, std).

Those with a `width_factor` or an `image_size` take it as a keyword.
"""


def build_model(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    mean: Constants = None,
    std: Constants = None,
    width_factor: float = 1.0,
    args: Mapping[str, Any] | None = None,
    normalize: bool | None = None,
) -> nn.Module:
    """Builds a network by name, its weights drawn from torch's global random state.

    Args:
        name: One of `MODELS`; `package.module:function` of the user's own; `timm:NAME`; or
            `transformers:NAME`, a model type or the name of a pretrained model.
        num_classes: Number of outputs, at least 2.
        in_channels: Channels of the input: 1 for grey images, 3 for colour.
        image_size: Height and width of the images; of the smaller one where they differ.
        mean: Channel means of the data in [0, 1], such as `ImageData.statistics()` gives; 0.5 by
            default.
        std: Channel standard deviations likewise; 0.25 by default.
        width_factor: Multiplies the width of every layer, for a network as deep and much smaller.
        args: Further arguments of a network that is not this package's. A function is also given
            those of num_classes, in_channels, image_size, mean and std that it names.
        normalize: Whether the mean and deviation are put before a network that is not this
            package's; by default they are before a library's and not before the user's own.

    Returns:
        A network from (B, C, H, W) in [0, 1] to (B, num_classes) logits, in training mode. What
        one of the user's own takes and returns is not checked here: see `check_network`.

    Raises:
        ConfigurationError: The name is unknown, or a number cannot work.
    """
    if ":" in name:
        facts = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": image_size,
            "mean": mean,
            "std": std,
        }
        return own_model(name, facts, args or {}, normalize)
    if name not in MODELS:
        raise ConfigurationError(
            f"There is no model {name!r}; choose one of {', '.join(MODELS)}, or give"
            " package.module:function, timm:NAME or transformers:NAME."
        )
    if args or normalize is not None:
        raise ConfigurationError(
            f"{name} has its normalisation inside and takes no further arguments; leave args and"
            " normalize out."
        )
    for setting, value, least in (("num_classes", num_classes, 2), ("in_channels", in_channels, 1)):
        if not isinstance(value, int) or value < least:
            raise ConfigurationError(
                f"{setting} is {value!r}; give a whole number of at least {least}."
            )
    options = _options(name, image_size, width_factor)
    model = MODELS[name](num_classes, in_channels, mean, std, **options)
    if image_size < model.smallest_image:
        raise ConfigurationError(
            f"{name} needs images of at least {model.smallest_image} pixels a side and these have"
            f" {image_size}; enlarge them, or choose convnet or a resnet (8 pixels and up)."
        )
    return model


def _options(name: str, image_size: int, width_factor: float) -> dict[str, float]:
    """What this network takes beyond the arguments that all take."""
    accepted = {model: inspect.signature(build).parameters for model, build in MODELS.items()}
    options: dict[str, float] = {}
    if "image_size" in accepted[name]:
        options["image_size"] = image_size
    if width_factor != 1:
        if not 0 < width_factor < math.inf:
            raise ConfigurationError(f"width_factor is {width_factor}; give a number above 0.")
        if "width_factor" not in accepted[name]:
            able = ", ".join(model for model in MODELS if "width_factor" in accepted[model])
            raise ConfigurationError(
                f"{name} has one width only; leave width_factor out, or choose one of {able}."
            )
        options["width_factor"] = width_factor
    return options
