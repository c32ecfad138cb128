"""The settings of a generator and its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from advreg.errors import ConfigurationError
from advreg.hashing.generator.dcgan import Critic, DCCritic, DCGenerator, Generator
from advreg.hashing.generator.objectives import OBJECTIVES
from advreg.hashing.generator.resnet import ResNetCritic, ResNetGenerator

KINDS = ("sn-dcgan", "sngan-resnet")

FEW_IMAGES = 10_000
"""Fewer training images than that are augmented unless it is said otherwise."""


@dataclass(frozen=True)
class GeneratorSettings:
    """How a generator is made and trained.

    Args:
        kind: sn-dcgan, or sngan-resnet for a GPU.
        objective: hinge, or feature_matching (the improved GAN's).
        steps: Updates of the generator.
        batch_size: Images in a mini-batch, real and generated alike.
        latent: Numbers that an image is made from.
        width: Channels at the images' own size; None is 64, or 32 for images under 28 pixels.
        learning_rate: Of the generator, for Adam; None is the paper's 2e-4, or 1e-3 for images
            under 28 pixels, whose networks are small.
        critic_rate: Of the critic; None is the generator's.
        beta1: Adam's first decay.
        beta2: Adam's second decay.
        critic_steps: Updates of the critic for one of the generator.
        augment: Whether real and generated images are augmented by DiffAugment; None is with fewer
            than 10,000 images.
        ema: Decay of the averaged weights, which make the images that are used; it grows to its
            value, so that the start is forgotten.
        seed: Of weights, latents, order and augmentation.
        inspect_every: Steps between two sample grids; None is a twelfth of all.
    """

    kind: Literal["sn-dcgan", "sngan-resnet"] = "sn-dcgan"
    objective: Literal["hinge", "feature_matching"] = "hinge"
    steps: int = 1500
    batch_size: int = 64
    latent: int = 64
    width: int | None = None
    learning_rate: float | None = None
    critic_rate: float | None = None
    beta1: float = 0.5
    beta2: float = 0.999
    critic_steps: int = 1
    augment: bool | None = None
    ema: float = 0.999
    seed: int = 0
    inspect_every: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("kind", KINDS), ("objective", tuple(OBJECTIVES))):
            if getattr(self, name) not in choices:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)!r}; give one of {', '.join(choices)}."
                )
        for name, least in (
            ("steps", 1),
            ("batch_size", 2),
            ("latent", 1),
            ("width", 1),
            ("critic_steps", 1),
            ("inspect_every", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            optional = value is None and name in ("width", "inspect_every")
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not (optional or whole):
                raise ConfigurationError(
                    f"{name} is {value!r}; give a whole number of at least {least}."
                )
        for name in ("learning_rate", "critic_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ConfigurationError(f"{name} is {value!r}; give a number between 0 and 1.")
        for name in ("beta1", "beta2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)!r}; give a number in [0, 1)."
                )

    def augments(self, images: int) -> bool:
        """Whether so many training images are augmented."""
        return images < FEW_IMAGES if self.augment is None else self.augment

    @property
    def interval(self) -> int:
        """Steps between two sample grids."""
        return self.inspect_every or max(self.steps // 12, 1)

    def rates(self, size: int) -> tuple[float, float]:
        """The learning rates of generator and critic for images of `size` pixels."""
        rate = self.learning_rate or (2e-4 if size >= 28 else 1e-3)
        return rate, self.critic_rate or rate

    def architecture(self, size: int, channels: int) -> dict[str, int | str]:
        """The arguments of `build_generator`, in plain values."""
        width = self.width or (64 if size >= 28 else 32)
        return {
            "kind": self.kind,
            "size": size,
            "channels": channels,
            "latent": self.latent,
            "width": width,
        }


def build_generator(kind: str, size: int, channels: int, latent: int, width: int) -> Generator:
    """A generator, its weights drawn from torch's global random state.

    Args:
        kind: sn-dcgan or sngan-resnet.
        size: Height and width of the images.
        channels: Of the images.
        latent: Numbers that an image is made from.
        width: Channels at the images' own size.

    Raises:
        ConfigurationError: No generator makes images of that size.
    """
    made = DCGenerator if kind == "sn-dcgan" else ResNetGenerator
    return made(size, channels, latent, width)


def build_critic(kind: str, size: int, channels: int, latent: int, width: int) -> Critic:
    """The critic beside it; arguments and errors as of `build_generator`."""
    made = DCCritic if kind == "sn-dcgan" else ResNetCritic
    return made(size, channels, width)
