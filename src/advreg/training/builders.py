"""The parts of a run, each from its settings; every mistake in them is found here."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from advreg.data import DataSplits, ImageData, load_data
from advreg.errors import ConfigurationError, DataError
from advreg.extras import needs
from advreg.methods import Composed, Criterion, Method, build_method, method_class, settings_of
from advreg.training.configuration import Configuration
from advreg.training.recipes import with_recipes
from advreg.training.settings import (
    DataSettings,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    RunSettings,
)
from advreg.training.team import seed_of_rank

if TYPE_CHECKING:  # takes seconds to import
    from lightning_fabric import Fabric


def build_criterion(settings: OptimizerSettings) -> Criterion:
    """The mean cross entropy of (B, K) outputs against (B,) classes or (B, K) probabilities."""
    return partial(functional.cross_entropy, label_smoothing=settings.label_smoothing)


def build_optimizer(settings: OptimizerSettings, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters."""
    rate = settings.learning_rate or 0.0  # the settings have resolved None
    if settings.name == "adamw":
        return torch.optim.AdamW(model.parameters(), rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def method_of(configuration: Configuration, rank: int = 0) -> Method:
    """The method, which takes the run's seed unless it was given one of its own.

    Each rank draws from another seed, made from that one.

    Raises:
        ConfigurationError: There is no such method, no such setting, or a value cannot work.
    """
    chosen = configuration.method
    return build_method(
        chosen.name, **_seeded(chosen.name, chosen.settings, configuration.run.seed, rank)
    )


def _seeded(name: str, settings: dict[str, Any], seed: int, rank: int) -> dict[str, Any]:
    if "+" in name:
        parts = {
            part: _seeded(part, settings.get(part, {}), seed, rank)
            for part in name.split("+")
            if isinstance(settings.get(part, {}), dict)
        }
        return {**settings, **parts}
    if "seed" not in settings_of(method_class(name)):
        return settings
    given = {"seed": seed, **settings}
    return given if rank == 0 else {**given, "seed": seed_of_rank(given["seed"], rank)}


def resolve(configuration: Configuration, goal: str | None = None) -> Configuration:
    """The same configuration with recipes filled in and every setting of its method spelt out.

    The run's seed is not repeated there, so that the file serves for another seed too.

    Args:
        configuration: As the user gave it.
        goal: accuracy or robustness, to take the recipe that was chosen by it where there is one.

    Raises:
        ConfigurationError: There is no such method, no such setting, or a value cannot work.
    """
    return spelt_out(with_recipes(configuration, goal=goal))


def spelt_out(configuration: Configuration) -> Configuration:
    """As `resolve`, without the recipes: what is not given has the method's own default."""
    method, chosen = method_of(configuration), configuration.method
    settings = _spelt_out(method, chosen.settings)
    return replace(configuration, method=MethodSettings(chosen.name, settings))


def _spelt_out(method: Method, chosen: dict[str, Any]) -> dict[str, Any]:
    if isinstance(method, Composed):
        return {part.name: _spelt_out(part, chosen.get(part.name, {})) for part in method.methods}
    settings = {
        name: getattr(method, name, chosen.get(name, one.default))
        for name, one in settings_of(method).items()
    }
    if "seed" not in chosen:
        settings.pop("seed", None)
    return settings


def choose_device(name: str) -> str:
    """cpu or cuda, from auto, cpu or cuda.

    Raises:
        ConfigurationError: It is none of them, or there is no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"device is {name!r}; give auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device is 'cuda' and no GPU is visible; set device to cpu.")
    return "cuda" if torch.cuda.is_available() and name != "cpu" else "cpu"


def build_fabric(settings: RunSettings, local: int = 0) -> Fabric:
    """Lightning Fabric for one device, the GPU of number `local` where there is one.

    Raises:
        ConfigurationError: The device is absent or cannot do the precision.
    """
    with needs("cli", "training in a run folder"):
        from lightning_fabric import Fabric

    # It advises another precision of products, which would change the figures.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    device = choose_device(settings.device)
    if settings.precision == "16-mixed" and device == "cpu":
        raise ConfigurationError("precision 16-mixed needs a GPU; set precision to bf16-mixed.")
    devices: Any = 1
    if local and device == "cuda":
        torch.cuda.set_device(local)
        devices = [local]
    return Fabric(accelerator=device, devices=devices, precision=settings.precision)


def build_data(settings: DataSettings) -> DataSplits:
    """The images, split.

    Raises:
        DataError: They have one class, so that there is nothing to learn.
    """
    splits = load_data(
        settings.name,
        limit=settings.limit,
        validation=settings.validation,
        seed=settings.seed,
        download=settings.download,
        image_column=settings.image_column,
        label_column=settings.label_column,
    )
    classes = splits.train.classes
    if len(classes) < 2:
        raise DataError(
            f"All images are of one class, {classes[0]!r}; give images of at least two."
        )
    return splits


def architecture(settings: ModelSettings, data: ImageData) -> dict[str, Any]:
    """The arguments of `build_model` for these images, in plain values: a checkpoint keeps them."""
    mean, deviation = data.statistics()
    own = {"args": settings.args, "normalize": settings.normalize}
    return {
        **{name: value for name, value in own.items() if value is not None},
        "name": settings.name,
        "num_classes": len(data.classes),
        "in_channels": data.images.shape[1],
        "image_size": min(data.images.shape[-2:]),
        "mean": mean,
        "std": deviation,
    }
