"""A generator in training: everything that moves, and one step of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from advreg.data import ImageData, Loader
from advreg.errors import ConfigurationError, RunError
from advreg.hashing.generator.augment import diff_augment
from advreg.hashing.generator.objectives import OBJECTIVES
from advreg.hashing.generator.settings import GeneratorSettings, build_critic, build_generator
from advreg.modes import evaluating


class GeneratorSession:
    """Generator, critic, averaged generator, their optimizers and random numbers.

    Args:
        settings: How to train.
        images: (N, C, H, W) uint8, the training images alone.
        device: Where to train.

    Attributes:
        step: Updates of the generator so far.
        seconds: Spent on training by the last inspection.
        averaged: The generator with averaged weights, which is the one that is used.

    Raises:
        ConfigurationError: There are too few images for a mini-batch, they are not square, or of a
            size that no generator makes.
    """

    def __init__(
        self, settings: GeneratorSettings, images: Tensor, device: torch.device | str = "cpu"
    ) -> None:
        height, width = images.shape[2:]
        if height != width:
            raise ConfigurationError(f"Images are {height}x{width}; cut or pad them to squares.")
        self.settings = settings
        self.device = torch.device(device)
        self.architecture = settings.architecture(height, images.shape[1])
        torch.manual_seed(settings.seed)
        arguments: dict[str, Any] = self.architecture
        self.generator = build_generator(**arguments).to(self.device)
        self.critic = build_critic(**arguments).to(self.device)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.objective = OBJECTIVES[settings.objective]
        self.augments = settings.augments(len(images))
        betas = settings.beta1, settings.beta2
        rate, critic_rate = settings.rates(height)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), rate, betas)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), critic_rate, betas)
        self.random = torch.Generator().manual_seed(settings.seed)
        data = ImageData(images, torch.zeros(len(images), dtype=torch.int64), ("image",))
        self.loader = Loader(
            data, settings.batch_size, seed=settings.seed, drop_last=True, device=self.device
        )
        self.step = 0
        self.seconds = 0.0
        self._sums = {"critic_loss": 0.0, "generator_loss": 0.0}
        self._summed = 0

    def batches(self) -> Iterator[Tensor]:
        """Real images in [-1, 1], a mini-batch for each update of the critic, from here on."""
        done = self.step * self.settings.critic_steps
        epoch, start = divmod(done, len(self.loader))
        for number in count(epoch):
            for batch in self.loader.epoch(number, start if number == epoch else 0):
                yield 2 * batch.inputs - 1

    def update(self, batches: Iterator[Tensor]) -> None:
        """One update of the generator after those of the critic."""
        self.generator.train()
        self.critic.train()
        for _ in range(self.settings.critic_steps):
            real = next(batches)
            with torch.no_grad():
                generated = self._generate(len(real))
            scores = self.critic(self._augmented(real)), self.critic(self._augmented(generated))
            critic_loss = self.objective.critic(*scores)
            self._descend(critic_loss, self.critic_optimizer)
        # The generator's step changes the critic's gradients, which are never used.
        self.critic.requires_grad_(False)
        images = self._augmented(self._generate(len(real)))
        loss = self.objective.generator(self.critic, self._augmented(real), images)
        self._descend(loss, self.generator_optimizer)
        self.critic.requires_grad_(True)
        self.step += 1
        self._average()
        self._sums["critic_loss"] += critic_loss.item()
        self._sums["generator_loss"] += loss.item()
        self._summed += 1

    def losses(self) -> dict[str, float]:
        """The mean losses since the last call.

        Raises:
            RunError: One of them is not finite.
        """
        means = {name: total / max(self._summed, 1) for name, total in self._sums.items()}
        self._sums, self._summed = dict.fromkeys(self._sums, 0.0), 0
        if not all(torch.tensor(value).isfinite() for value in means.values()):
            raise RunError(
                f"A loss of the generator's training was not finite by step {self.step}; train"
                " again with a lower learning rate."
            )
        return means

    def samples(self, latents: Tensor, batch_size: int = 500) -> Tensor:
        """Images of the averaged generator in [0, 1], (N, C, H, W) on the CPU."""
        return sample(self.averaged, latents, batch_size)

    def _generate(self, number: int) -> Tensor:
        images: Tensor = self.generator(self.generator.latents(number, self.random).to(self.device))
        return images

    def _augmented(self, images: Tensor) -> Tensor:
        return diff_augment(images, self.random) if self.augments else images

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        current = self.generator.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs to go on bit for bit."""
        parts = ("generator", "critic", "averaged", "generator_optimizer", "critic_optimizer")
        return {
            **{part: getattr(self, part).state_dict() for part in parts},
            "random": self.random.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "sums": dict(self._sums),
            "summed": self._summed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for part in ("generator", "critic", "averaged", "generator_optimizer", "critic_optimizer"):
            getattr(self, part).load_state_dict(state[part])
        self.random.set_state(state["random"])
        self.step, self.seconds = state["step"], state["seconds"]
        self._sums, self._summed = dict(state["sums"]), state["summed"]


def sample(generator: nn.Module, latents: Tensor, batch_size: int = 500) -> Tensor:
    """Images of a generator in evaluation mode, in [0, 1], (N, C, H, W) on the CPU."""
    device = next(generator.parameters()).device
    with evaluating(generator), torch.no_grad():
        parts = [((generator(part.to(device)) + 1) / 2).cpu() for part in latents.split(batch_size)]
    return torch.cat(parts)
