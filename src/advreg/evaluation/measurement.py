"""Measuring a network piece by piece: a batch of images, clean or under one run of an attack."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advreg.attacks import Threat, input_gradient
from advreg.attacks.gradient import unwarned
from advreg.checks import check_logits
from advreg.errors import AdvregError, DataError
from advreg.evaluation.accuracy import as_inputs
from advreg.evaluation.calibration import brier_scores, confidences
from advreg.evaluation.pieces import Piece, Pieces
from advreg.evaluation.results import COLUMNS, Columns, Outcome
from advreg.inputs import find_tensor
from advreg.losses import correct, cross_entropies, single_labels
from advreg.progress import Clock
from advreg.shortage import enough_memory
from advreg.tensors import finite


class Run(NamedTuple):
    """One of an attack's runs: its number, from 0, and its seed."""

    number: int
    seed: int

    @classmethod
    def of(cls, seed: int, number: int, first: int) -> Run:
        """Drawn from the evaluation's seed, the run and the batch's first example alone.

        So neither the budgets before it nor the device change where a batch starts.
        """
        return cls(number, random.Random(f"{seed} {number} {first}").getrandbits(63))


Craft = Callable[[nn.Module, Tensor, Tensor, Threat, Run], Tensor]
"""Takes a model, inputs, targets, a threat model and a run; returns the attacked inputs."""

Check = Callable[[Tensor, Threat, int], None]
"""Takes inputs, a threat model and the number of classes; raises where the attack cannot work."""


class Chosen(NamedTuple):
    """The examples to be measured, in the order in which they are.

    Attributes:
        images: (N, C, H, W) uint8.
        targets: (N,) int64.
        indices: (N,) int64, each one's place in the data.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor


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
        check: Refuses what it cannot attack, before anything runs.
    """

    name: str
    craft: Craft
    settings: dict[str, Any] = field(default_factory=dict)
    work: float = 1.0
    restarts: int = 1
    sees_gradient: bool = True
    check: Check | None = None


class Measurement:
    """Measures a network, batch by batch, and takes over what `pieces` has already.

    Args:
        model: The network, deployed by the caller.
        data: The examples; any beginning of them stands for all.
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
        data: Chosen,
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

    def first_logits(self) -> Tensor:
        """The logits (B, K) of the first batch."""
        inputs, targets = self.load(0, self.batch_size)
        return single_labels(self.model(inputs), targets)[0]

    def try_once(self) -> None:
        """Refuses a network that cannot take these images.

        Raises:
            DataError: Its forward pass fails on the first one.
        """
        inputs, _ = self.load(0, 1)
        try:
            with self._room():
                self.model(inputs)
        except AdvregError:
            raise
        except RuntimeError as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise DataError(
                f"The network cannot take {inputs.dtype} images of shape {tuple(inputs.shape)}"
                f" ({first[:200]}); give the images that it is made for, (N, C, H, W)."
            ) from error

    def check(self, attack: Attack, threat: Threat, classes: int) -> None:
        """Refuses an attack that cannot work on these images.

        Raises:
            ConfigurationError: It cannot.
        """
        if attack.check is not None:
            attack.check(self.load(0, 1)[0], threat, classes)

    def _piece(self, name: str, measure: Callable[[], Tensor], text: str, work: float) -> Piece:
        piece = self.pieces.done.get(name)
        measured = piece is None
        if piece is None:
            began = time.perf_counter()
            with self._room(), _counting(self.watched) as counts:
                values = measure().cpu().numpy()
            piece = Piece(values, time.perf_counter() - began, *counts)
            self.pieces.put(name, piece)
        self.clock.did(work, text, measured)
        return piece

    def _room(self) -> AbstractContextManager[None]:
        mend = "lower batch_size. What was measured before is kept."
        return enough_memory(f"batches of {self.batch_size} images", mend)

    def _attacked(self, attack: Attack, threat: Threat, first: int, restart: int) -> Tensor:
        inputs, targets = self.load(first, first + self.batch_size)
        run = Run.of(self.seed, restart, first)
        with unwarned():
            attacked = attack.craft(self.model, inputs, targets, threat, run)
        return correct(self.model(attacked), targets)

    def _figures(self, images: Tensor, targets: Tensor, gradient: bool) -> Tensor:
        """(B, columns) in the order of `COLUMNS`."""
        inputs, targets = self._load(images, targets)
        outputs, targets = single_labels(self.model(inputs), targets)
        check_logits(outputs)
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
        return as_inputs(self.model, images, self.device), targets.to(self.device)


@contextmanager
def _counting(models: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Counts the examples that pass through models, with and without a gradient."""
    counts = [0, 0]

    def count(module: nn.Module, inputs: Any, outputs: Any) -> None:
        found = find_tensor(outputs)
        if found is not None:
            grad = found[0].requires_grad and torch.is_grad_enabled()
            counts[0 if grad else 1] += len(found[0])

    with ExitStack() as stack:
        for model in models:
            handle = model.register_forward_hook(count)
            stack.callback(handle.remove)
        yield counts
