"""Networks that are not advreg's: of the user's own code, of timm, of transformers."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from advreg.errors import ConfigurationError, DataError
from advreg.inputs import logits_of
from advreg.models.layers import Classifier, Constants
from advreg.modes import evaluating

LIBRARIES = ("timm", "transformers")
"""What may stand before the colon beside a module of the user's own."""


class WrappedNetwork(Classifier):
    """Another network behind this package's normalisation; only the logits come out.

    Args:
        network: Takes (B, C, H, W), returns logits or an output that holds them.
        in_channels: Channels of the input.
        mean: Channel means of the data, in [0, 1].
        std: Channel standard deviations of the data.
    """

    def __init__(
        self, network: nn.Module, in_channels: int, mean: Constants, std: Constants
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        return logits_of(self.network(self.normalize(inputs)))


def is_own_code(name: str) -> bool:
    """Whether a model's name is code that is neither advreg's nor a library's."""
    return ":" in name and name.partition(":")[0] not in LIBRARIES


def check_trusted(name: str, trusted: str | None) -> None:
    """Refuses to import code that a file names and the user does not.

    Args:
        name: The model's name in a configuration or a checkpoint.
        trusted: The name that the user gave, if any.

    Raises:
        ConfigurationError: It is code of somebody's own that was not named, or another name was.
    """
    if trusted is not None and name != trusted:
        raise ConfigurationError(
            f"The run's network is {name!r} and not {trusted!r}; name that one, or leave it out."
        )
    if is_own_code(name) and trusted is None:
        raise ConfigurationError(
            f"The network is {name!r}, code that is not advreg's; if you trust it, name it with"
            f" --model {shlex.quote(name)} (load_run's argument `model`)."
        )


def own_model(
    name: str, facts: Mapping[str, Any], args: Mapping[str, Any], normalize: bool | None
) -> nn.Module:
    """A network that is not advreg's.

    Args:
        name: `module:function` on Python's path, `timm:NAME`, or `transformers:NAME`.
        facts: The data's num_classes, in_channels, image_size, mean and std. A function of the
            user's own is given those that it names.
        args: Further arguments.
        normalize: Whether the data's mean and deviation are put before the network; by default
            only before a library's.

    Raises:
        ConfigurationError: There is no such network, or it cannot be built so.
    """
    source, _, rest = name.partition(":")
    build: Callable[[], Any]
    if source == "timm":
        build, mend = _timm(rest, facts, args), "give a name of timm.list_models()"
    elif source == "transformers":
        build = _transformers(rest, facts, args)
        mend = "give a model type such as vit, or a folder or a hub's name with a configuration"
    else:
        build = _function(source, rest, facts, args)
        mend = "give module:function, a function that returns the network"
    try:
        model = build()
    except ConfigurationError:
        raise
    except Exception as error:  # the user's code runs
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(f"model {name!r} cannot be built ({reason}); {mend}.") from error
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model {name!r} is a {type(model).__name__}; {mend}.")
    wrapped = source in LIBRARIES if normalize is None else normalize
    if not wrapped:
        return model
    return WrappedNetwork(model, facts["in_channels"], facts["mean"], facts["std"])


def check_network(model: nn.Module, name: str, shape: tuple[int, int, int], classes: int) -> None:
    """Sends two black images through a network, in evaluation mode.

    Args:
        model: The network.
        name: For the messages.
        shape: Channels, height and width of an image.
        classes: How many there are.

    Raises:
        ConfigurationError: The images do not go through, or other than (2, classes) comes out.
    """
    parameter = next(model.parameters(), torch.empty(0))
    images = torch.zeros(2, *shape, device=parameter.device, dtype=parameter.dtype)
    size = "x".join(map(str, shape))
    try:
        with evaluating(model), torch.no_grad():
            logits = logits_of(model(images))
    except DataError as error:
        raise ConfigurationError(f"model {name!r} gives no logits: {error}") from error
    except Exception as error:  # the user's code runs
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigurationError(
            f"model {name!r} does not take images of {size} ({reason}); give a network for them,"
            " or its arguments with --model.args."
        ) from error
    if logits.shape != (2, classes):
        raise ConfigurationError(
            f"model {name!r} makes {tuple(logits.shape)} of two images and the data have"
            f" {classes} classes; let it give {classes} logits for each (a function that takes"
            " num_classes is given their number)."
        )


def _function(
    module: str, name: str, facts: Mapping[str, Any], args: Mapping[str, Any]
) -> Callable[[], Any]:
    def build() -> Any:
        function = getattr(import_module(module), name)
        named = inspect.signature(function).parameters
        return function(**{**{key: facts[key] for key in facts if key in named}, **args})

    return build


def _timm(name: str, facts: Mapping[str, Any], args: Mapping[str, Any]) -> Callable[[], Any]:
    def build() -> Any:
        timm = _library("timm")
        settings = {"num_classes": facts["num_classes"], "in_chans": facts["in_channels"]}
        try:
            return timm.create_model(name, **{**settings, "img_size": facts["image_size"], **args})
        except TypeError:  # a convolutional network, which takes images of any size
            return timm.create_model(name, **{**settings, **args})

    return build


def _transformers(
    name: str, facts: Mapping[str, Any], args: Mapping[str, Any]
) -> Callable[[], Any]:
    settings = {
        "num_labels": facts["num_classes"],
        "num_channels": facts["in_channels"],
        "image_size": facts["image_size"],
        **args,
    }

    def build() -> Any:
        transformers = _library("transformers")
        kind = transformers.AutoModelForImageClassification
        if name in transformers.CONFIG_MAPPING:
            return kind.from_config(transformers.AutoConfig.for_model(name, **settings))
        return kind.from_pretrained(
            name, trust_remote_code=False, ignore_mismatched_sizes=True, **settings
        )

    return build


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"{name} is not installed; install it with: pip install {name}"
        ) from error
