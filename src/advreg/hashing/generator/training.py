"""Training a generator into a folder, with grids of its images on the way."""

from __future__ import annotations

import os
import shlex
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.errors import GeneratorCollapseWarning, GeneratorMemoryWarning, OutputError
from advreg.files import as_argument
from advreg.hashing.generator.folder import GeneratorFolder
from advreg.hashing.generator.grids import beside, write_grid
from advreg.hashing.generator.likeness import (
    COMPARED,
    Likeness,
    TrainingImages,
    diagnosis,
    nearest_images,
)
from advreg.hashing.generator.quality import (
    FeatureNetwork,
    features_of,
    frechet_distance,
    kernel_distance,
)
from advreg.hashing.generator.session import GeneratorSession
from advreg.hashing.generator.settings import GeneratorSettings
from advreg.training.interrupts import Interrupts

SHOWN = 64
"""Images of a grid; they come from the same latents at every inspection."""

PAIRED = 32
"""Images shown above their nearest training images."""

YOUNG = 0.25
FIRST_JUDGED = 200
"""The share of the training, and the steps, before which a generator is not judged: all start from
grey."""


@dataclass(frozen=True)
class GeneratorResult:
    """What a finished training left behind.

    Attributes:
        folder: Where everything is.
        metrics: One mapping for each inspection, as in `metrics.jsonl`.
        likeness: Of the finished generator's images.
        diagnosis: What is wrong with it, or None.
    """

    folder: GeneratorFolder
    metrics: list[dict[str, Any]]
    likeness: Likeness
    diagnosis: str | None


def train_generator(
    images: Tensor,
    settings: GeneratorSettings,
    out: str | os.PathLike[str],
    *,
    pool: int = 5000,
    facts: dict[str, Any] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    features: Callable[[], FeatureNetwork | None] = lambda: None,
    report: Callable[[int, str | None], object] | None = None,
) -> GeneratorResult:
    """Trains a generator on images and draws the pool that hash networks are trained with.

    On the CPU a training that was interrupted anywhere and resumed equals one that was not, to the
    bit. Sets torch's global random state.

    Args:
        images: (N, C, H, W) uint8, the training images alone: neither queries nor database.
        settings: How to train.
        out: The folder; new or empty, unless the training is resumed.
        pool: Images to draw at the end.
        facts: Plain values to keep beside the settings, such as what the images are.
        resume: Go on with the training in the folder; where there is none, start it.
        device: cpu or cuda.
        features: Makes what own-FID and own-KID to the training images are on at every inspection,
            such as `train_features`; called at the first one, and None leaves them out.
        report: Called after every step with its number, and with a text after every inspection.

    Raises:
        AdvregError: Settings, images or folder cannot work, or a loss is not finite.
        Interrupted: Ctrl-C, SIGTERM or a hangup; the training was saved and can be resumed.
    """
    folder = GeneratorFolder(out)
    words = {**asdict(settings), "pool": pool, "images": len(images), **(facts or {})}
    resume = resume and folder.config.is_file()
    if resume:
        folder.check_same(words)
    else:
        folder.check_free()
    session = GeneratorSession(settings, images, device)
    if resume and folder.last.is_file():
        session.load_state_dict(folder.load(folder.last))
    elif not resume:
        folder.create(words)
    folder.cut_metrics(session.step)
    inspector = Inspector(folder, session, TrainingImages(images), features)
    with Interrupts() as interrupts:
        _run(session, inspector, interrupts, report)
    return _finish(folder, session, inspector, pool)


def _run(
    session: GeneratorSession,
    inspector: Inspector,
    interrupts: Interrupts,
    report: Callable[[int, str | None], object] | None,
) -> None:
    """The loop: steps, and an inspection every so many."""
    settings, batches = session.settings, session.batches()
    while session.step < settings.steps:
        session.update(batches)
        due = session.step % settings.interval == 0 or session.step == settings.steps
        text = inspector.inspect() if due else None
        if report is not None:
            try:
                report(session.step, text)
            except OutputError as error:
                interrupts.request(error)
        if due or interrupts.requested:
            inspector.folder.save(inspector.folder.last, session.state_dict())
        if interrupts.requested and session.step < settings.steps:
            raise interrupts.stopped(
                "the generator is saved. Go on with: advreg hash generate --out"
                f" {shlex.quote(as_argument(inspector.folder.path))} --resume"
            )


class Inspector:
    """Inspects a generator in training: a grid, a line of figures, a warning where one is due.

    Args:
        folder: Where they go.
        session: The training.
        training: The training images.
        features: Makes what own-FID and own-KID are on; None leaves them out.
    """

    def __init__(
        self,
        folder: GeneratorFolder,
        session: GeneratorSession,
        training: TrainingImages,
        features: Callable[[], FeatureNetwork | None] = lambda: None,
    ) -> None:
        self.folder, self.session, self.training = folder, session, training
        random = torch.Generator().manual_seed(session.settings.seed + 1)
        self.latents = session.generator.latents(COMPARED, random)
        self.features = features
        self.began = time.perf_counter() - session.seconds

    @cached_property
    def known(self) -> tuple[FeatureNetwork, np.ndarray] | None:
        """What features come from, and those of the training images; made when first needed."""
        network = self.features()
        return None if network is None else (network, features_of(network, self.training.images))

    def inspect(self) -> str:
        """Writes the grid and the line of this step; returns the line for people."""
        session = self.session
        losses = session.losses()
        session.seconds = time.perf_counter() - self.began
        images = session.samples(self.latents)
        likeness = self.training.compare(images)
        write_grid(self.folder.path / "samples" / f"{session.step:06}.png", images[:SHOWN])
        record = {
            "step": session.step,
            **losses,
            **likeness.to_dict(),
            **self._distances(images),
            "seconds": session.seconds,
        }
        if session.step >= max(YOUNG * session.settings.steps, FIRST_JUDGED):
            self._warn(likeness, record)
        self.folder.add_metrics(record)
        return (
            f"step {session.step}/{session.settings.steps}  critic {losses['critic_loss']:.3f}"
            f"  generator {losses['generator_loss']:.3f}  spread {likeness.spread:.2f}"
            f"  distance to training images {likeness.distance_to_training:.2f}"
            + (f"  own-FID {record['own_fid']:.2f}" if "own_fid" in record else "")
        )

    def _distances(self, images: Tensor) -> dict[str, float]:
        if self.known is None:
            return {}
        network, known = self.known
        made = features_of(network, images)
        return {
            "own_fid": frechet_distance(made, known),
            "own_kid": kernel_distance(made, known),
        }

    def _warn(self, likeness: Likeness, record: dict[str, Any]) -> None:
        reason = diagnosis(likeness)
        if reason is None:
            return
        record["warning"] = reason
        copies = likeness.remembered and not likeness.collapsed
        kind = GeneratorMemoryWarning if copies else GeneratorCollapseWarning
        earlier = {line.get("warning_kind") for line in self.folder.read_metrics()}
        record["warning_kind"] = kind.__name__
        if kind.__name__ not in earlier:
            warnings.warn(reason, kind, stacklevel=2)


def _finish(
    folder: GeneratorFolder, session: GeneratorSession, inspector: Inspector, pool: int
) -> GeneratorResult:
    """Saves the averaged generator, a pool of its images, and samples beside training images."""
    contents = {"architecture": session.architecture, "generator": session.averaged.state_dict()}
    folder.save(folder.weights, contents)
    random = torch.Generator().manual_seed(session.settings.seed + 2)
    drawn = session.samples(session.generator.latents(pool, random))
    folder.save_pool((drawn * 255).round().to(torch.uint8))
    shown = drawn[: min(PAIRED, len(drawn) - len(drawn) % 8)]
    if len(shown):
        places, _ = nearest_images(shown, inspector.training.images)
        pairs = beside(shown, inspector.training.images[places].float() / 255)
        write_grid(folder.path / "nearest.png", pairs, columns=8)
    likeness = inspector.training.compare(drawn)
    return GeneratorResult(folder, folder.read_metrics(), likeness, diagnosis(likeness))
