"""Measuring a network piece by piece: a batch of images, clean or under one run of an attack."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advreg.attacks import Threat, correct, cross_entropies, input_gradient
from advreg.attacks.checks import not_probabilities
from advreg.attacks.threat import finite
from advreg.evaluation.accuracy import Images, logits
from advreg.evaluation.calibration import brier_scores, confidences
from advreg.evaluation.pieces import Piece, Pieces
from advreg.evaluation.progress import Clock
from advreg.evaluation.results import COLUMNS, Columns, Outcome

Craft = Callable[[nn.Module, Tensor, Tensor, Threat, int], Tensor]
"""Takes a model, inputs, targets, a threat model and a seed; returns the attacked inputs."""


IMAGE_WORK = 3.0
"""Of one example's clean figures, its gradient among them, in forward passes."""


@dataclass(frozen=True)
class Attack:
    """An attack as an evaluation runs it.

    Args:
        name: What its figures are filed under; within one evaluation a name has one meaning.
        craft: Runs it once.
        settings: What it was run with, ready for JSON.
        work: Of one run on one example, in forward passes, for the time left.
        restarts: Runs; of each example the worst counts.
        sees_gradient: Whether it follows the tested model's own gradient.
    """

    name: str
    craft: Craft
    settings: dict[str, Any] = field(default_factory=dict)
    work: float = 1.0
    restarts: int = 1
    sees_gradient: bool = True


class Measurement:
    """Measures a network, batch by batch, and takes over what `pieces` has already.

    Args:
        model: The network, deployed by the caller.
        data: The images and their classes.
        batch_size: Images a pass.
        device: Where the model is.
        seed: What random starts are drawn from.
        pieces: What is done.
        clock: Told of every piece.
        sources: Other models that attacks run on; their passes count too.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        batch_size: int,
        device: torch.device,
        seed: int,
        pieces: Pieces,
        clock: Clock,
        sources: Sequence[nn.Module] = (),
    ) -> None:
        self.model = model
        self.data = data
        self.batch_size = batch_size
        self.device = device
        self.seed = seed
        self.pieces = pieces
        self.clock = clock
        self.watched = [model, *sources]

    def clean(self) -> Columns:
        """Every example's figures without an attack."""

        def fetch(first: int, last: int) -> tuple[Tensor, Tensor]:
            return self.data.images[first:last], self.data.targets[first:last]

        return self.images("clean", fetch, len(self.data.targets), gradient=True)

    def images(
        self,
        name: str,
        fetch: Callable[[int, int], tuple[Tensor, Tensor]],
        count: int,
        gradient: bool = False,
    ) -> Columns:
        """The figures of images that need not be the data's own.

        Args:
            name: Of the pieces.
            fetch: Takes the first and the last place (excluded); returns uint8 images and targets.
            count: How many images there are.
            gradient: Whether to look for gradients of zero, too.
        """
        parts = []
        for first in range(0, count, self.batch_size):
            last = min(first + self.batch_size, count)

            def measure(first: int = first, last: int = last) -> Tensor:
                images, targets = fetch(first, last)
                return self._figures(images, targets, gradient)

            parts.append(
                self._piece(f"{name} | {first}", measure, name, IMAGE_WORK * (last - first))
            )
        return Columns(np.concatenate([part.values for part in parts]))

    def attack(
        self, attack: Attack, text: str, threat: Threat, count: int | None = None
    ) -> Outcome:
        """What an attack leaves of the first `count` examples, whole batches, or of all."""
        hits, runs = [], []
        everything = len(self.data.targets)
        for first in range(0, min(count or everything, everything), self.batch_size):
            batch = []
            for restart in range(attack.restarts):

                def measure(first: int = first, restart: int = restart) -> Tensor:
                    return self._attacked(attack, threat, first, restart)

                name = f"{attack.name} | {text} | {restart} | {first}"
                work = attack.work * min(self.batch_size, everything - first)
                batch.append(self._piece(name, measure, f"{attack.name} at {text}", work))
            hits.append(np.stack([piece.values for piece in batch]).all(0))
            runs += batch
        correct = torch.from_numpy(np.concatenate(hits))
        return Outcome(
            correct,
            sum(run.seconds for run in runs),
            sum(run.passes for run in runs) / len(correct),
            sum(run.queries for run in runs) / len(correct),
        )

    def work(self, attack: Attack, count: int | None = None) -> float:
        """What `attack` with the same arguments will tell the clock."""
        everything = len(self.data.targets)
        batches = -(-min(count or everything, everything) // self.batch_size)
        return attack.work * attack.restarts * min(batches * self.batch_size, everything)

    def load(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Inputs in [0, 1] and targets of a range of examples, on the device."""
        return self._load(self.data.images[first:last], self.data.targets[first:last])

    def _piece(self, name: str, measure: Callable[[], Tensor], text: str, work: float) -> Piece:
        piece = self.pieces.done.get(name)
        measured = piece is None
        if piece is None:
            began = time.perf_counter()
            with _counting(self.watched) as counts:
                values = measure().cpu().numpy()
            piece = Piece(values, time.perf_counter() - began, *counts)
            self.pieces.put(name, piece)
        self.clock.did(work, text, measured)
        return piece

    def _attacked(self, attack: Attack, threat: Threat, first: int, restart: int) -> Tensor:
        inputs, targets = self.load(first, first + self.batch_size)
        # From the seed, the restart and the batch alone, so that neither the budgets before it
        # nor the device changes where a batch starts.
        seed = random.Random(f"{self.seed} {restart} {first}").getrandbits(63)
        return correct(self.model(attack.craft(self.model, inputs, targets, threat, seed)), targets)

    def _figures(self, images: Tensor, targets: Tensor, gradient: bool) -> Tensor:
        """(B, columns) in the order of `COLUMNS`."""
        inputs, targets = self._load(images, targets)
        outputs = logits(self.model, inputs, targets)
        not_probabilities(outputs)
        zero = torch.zeros(len(inputs), dtype=torch.bool)
        if gradient:
            zero = ~finite(input_gradient(self.model, inputs, targets)).flatten(1).any(1)
        # On the CPU in double, which not every accelerator has.
        outputs, targets = outputs.cpu(), targets.cpu()
        figures = {
            "correct": correct(outputs, targets),
            "loss": cross_entropies(outputs, targets),
            "brier": brier_scores(outputs, targets),
            "confidence": confidences(outputs),
            "prediction": outputs.argmax(1),
            "not_finite": ~outputs.isfinite().all(1),
            "zero_gradient": zero.cpu(),
        }
        return torch.stack([figures[name].double() for name in COLUMNS], 1)

    def _load(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(self.device).float() / 255, targets.to(self.device)


@contextmanager
def _counting(models: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Counts the examples that pass through models, with and without a gradient."""
    counts = [0, 0]

    def count(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if isinstance(outputs, Tensor):
            counts[0 if outputs.requires_grad and torch.is_grad_enabled() else 1] += len(outputs)

    with ExitStack() as stack:
        for model in models:
            handle = model.register_forward_hook(count)
            stack.callback(handle.remove)
        yield counts
