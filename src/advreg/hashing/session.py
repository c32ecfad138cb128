"""A hashing run in the making: the training session with codes, their loss and generated images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advreg.batch import Batch, View
from advreg.data import ImageData
from advreg.errors import CollapseWarning, ConfigurationError, DataError, StateError
from advreg.evaluation.identity import content_hash
from advreg.hashing.bitstatistics import bit_statistics
from advreg.hashing.codes import HashNetwork, bits_of, outputs_of
from advreg.hashing.data import HashImages, load_images, split_images
from advreg.hashing.generator.folder import GeneratorFolder
from advreg.hashing.losses import GENERATED, WithGenerated, build_loss, generated_count
from advreg.hashing.relevance import Relevance
from advreg.hashing.retrieval import rank
from advreg.hashing.settings import HashConfiguration
from advreg.hashing.splits import HashSplit
from advreg.hashing.stage_one import check_generator, train_fingerprint
from advreg.hashing.ties import average_precision
from advreg.methods import Criterion, StepOutput
from advreg.models import build_model
from advreg.training import builders
from advreg.training.session import Session
from advreg.training.team import ALONE, Team

INSPECTED = 500
"""Training images whose codes are measured after each epoch, and generated ones likewise."""


def describe(record: dict[str, Any], epochs: int) -> str:
    """One epoch's line for people."""
    line = (
        f"epoch {record['epoch']:{len(str(epochs))}}/{epochs}  loss {record['train_loss']:.3f}"
        f"  mAP among training images {record['train_map']:6.2%}"
        f"  distinct codes {record['distinct_codes']}"
    )
    if "generated_entropy" in record:
        line += f"  entropy of generated {record['generated_entropy']:.2f}"
    return f"{line}  {record['seconds']:.1f} s"


def load_split(
    configuration: HashConfiguration, images: HashImages | None = None
) -> tuple[HashImages, HashSplit]:
    """The images of a run, and their split as its settings draw it.

    Args:
        configuration: The run's.
        images: Of its source, where they are in memory already.
    """
    data = configuration.data
    images = images or load_images(data.name, data.download)
    split = split_images(images, data.split, query=data.query, train=data.train, seed=data.seed)
    return images, split


class HashSession(Session):
    """A hashing run; see `Session`.

    Generated images stand in the same mini-batch as real ones, with targets of -1, so that every
    method treats both alike. Their indices follow those of the training images: example memory
    keeps each one's own perturbation.

    Attributes:
        images: All images of the source.
        split: Which of them are queries, database and training images.
        pool: (P, C, H, W) uint8 generated images, or None.
    """

    configuration: HashConfiguration
    line = staticmethod(describe)

    def __init__(
        self,
        configuration: HashConfiguration,
        team: Team = ALONE,
        images: HashImages | None = None,
    ) -> None:
        self.given = images
        super().__init__(configuration, team)

    def load_data(self) -> ImageData:
        """The training images; the loader's targets are places, for images may have labels."""
        self.images, self.split = load_split(self.configuration, self.given)
        chosen = self.split.train
        self.labels = self.images.targets[chosen].to(self.fabric.device)
        self.pool = self._pool()
        images, targets = self.images.images[chosen], self.images.targets[chosen]
        if targets.ndim == 2:
            return ImageData(images, torch.zeros(len(chosen), dtype=torch.int64), ("image",))
        return ImageData(images, targets, self.images.classes)

    def _pool(self) -> Tensor | None:
        generated = self.configuration.generated
        if generated.folder is None:
            return None
        folder = GeneratorFolder(generated.folder)
        check_generator(folder, self.split)
        pool = folder.load_pool()
        if pool.shape[1:] != self.images.images.shape[1:]:
            raise DataError(
                f"Generated images have shape {tuple(pool.shape[1:])} and the data"
                f" {tuple(self.images.images.shape[1:])}; generate from the same data."
            )
        if not generated_count(generated.share, self.configuration.run.batch_size):
            raise ConfigurationError(
                f"generated.share is {generated.share}, which is no image of a mini-batch; give a"
                " larger one, or leave generated.folder out."
            )
        return pool.to(self.fabric.device)

    def data_identity(self) -> dict[str, str]:
        """The training images, and the split with all targets of the source."""
        pixels = content_hash({"images": self.images.images[self.split.train]})
        return {"training images": pixels, "classes": train_fingerprint(self.split)}

    def started(self, folder: Path, resumed: bool) -> None:
        """Keeps the ids of the split, or makes sure that they are those of the run.

        Raises:
            StateError: They are others.
        """
        path = folder / "split.npz"
        if resumed and path.is_file():
            check_split(HashSplit.load(path), self.split)
        else:
            self.split.save(path)

    def build_network(self, train: ImageData) -> nn.Module:
        """A backbone with bits instead of its classifier."""
        code = self.configuration.code
        backbone = builders.architecture(self.configuration.model, train)
        backbone["num_classes"] = max(len(self.images.classes), 2)
        self.architecture = {
            "backbone": backbone,
            "bits": code.bits,
            "classifier": code.classifier,
            "image_size": list(train.images.shape[1:]),
        }
        return build_hash_network(self.architecture)

    def build_criterion(self) -> Criterion:
        """The loss, with the term on generated images where there are any."""
        chosen, bits = self.configuration.loss, self.configuration.code.bits
        loss = build_loss(chosen.name, bits, len(self.images.classes), **chosen.settings)
        self.loss = loss.to(self.fabric.device)
        if self.pool is None:
            return self.loss
        return WithGenerated(self.loss, self.configuration.generated.weight)

    def set_watches(self, train: ImageData) -> None:
        """None of those that a classifier has; example memory holds generated images too."""
        self.examples += 0 if self.pool is None else len(self.pool)
        self.said_collapse = False

    def prepare(self, batch: Batch) -> Batch:
        """The batch with its labels, and generated images behind it."""
        self.loss.progress = self.tally.updates / max(self.updates, 1)
        assert batch.indices is not None
        targets = self.labels.index_select(0, batch.indices)
        batch = Batch(batch.inputs, targets, batch.indices, batch.view)
        if self.pool is not None:
            batch = self._with_generated(batch, self.pool)
        return super().prepare(batch)

    def _with_generated(self, batch: Batch, pool: Tensor) -> Batch:
        assert batch.indices is not None
        count = generated_count(self.configuration.generated.share, len(batch))
        # A function of seed, epoch and mini-batch alone, so that a resumed run draws the same.
        key = (self.loader.drawn_in(self.tally.epoch), int(batch.indices[0]))
        random = np.random.default_rng(
            np.random.SeedSequence(self.configuration.run.seed, spawn_key=key)
        )
        places = torch.from_numpy(random.integers(len(pool), size=count)).to(pool.device)
        targets = batch.targets.new_full((count, *batch.targets.shape[1:]), GENERATED)
        view = batch.view
        if isinstance(view, View):
            middle = torch.full((count,), view.padding, device=pool.device)
            flips = torch.zeros(count, dtype=torch.bool, device=pool.device)
            view = View(
                torch.cat([view.top, middle]),
                torch.cat([view.left, middle]),
                torch.cat([view.flip, flips]),
                view.padding,
            )
        elif view is not None:
            view = view.select(torch.arange(len(batch) + count))
        return Batch(
            torch.cat([batch.inputs, pool[places].float() / 255]),
            torch.cat([batch.targets, targets]),
            torch.cat([batch.indices, places + len(self.split.train)]),
            view,
        )

    def score(self, output: StepOutput) -> Tensor:
        """Codes are neither right nor wrong."""
        return output.loss.new_zeros(())

    def figures(self) -> dict[str, Any]:
        """Of training images alone, so that nobody stops a run where its queries do best."""
        chosen = self.split.train[:: max(len(self.split.train) // INSPECTED, 1)][:INSPECTED]
        outputs = outputs_of(self.deployed, self.images.images[chosen])
        found = bit_statistics(outputs)
        record = {
            "train_map": training_map(outputs, self.images.targets[chosen]),
            "distinct_codes": found["distinct_codes"],
            "constant_bits": found["constant_bits"],
            "train_entropy": found["entropy"],
        }
        if self.pool is not None:
            generated = outputs_of(self.deployed, self.pool[:INSPECTED])
            record["generated_entropy"] = bit_statistics(generated)["entropy"]
        if found["distinct_codes"] == 1 and not self.said_collapse:
            self._warn_of_one_code()
        return record

    def _warn_of_one_code(self) -> None:
        self.said_collapse = True
        message = (
            "All training images have one code; train with a lower learning rate, with another"
            " mining, or with a smaller epsilon."
        )
        self.warnings.append(message)
        warnings.warn(message, CollapseWarning, stacklevel=2)


def training_map(outputs: Tensor, targets: Tensor) -> float:
    """Tie-aware mAP of each image among all others, itself counted as found at distance 0."""
    network_bits = bits_of(outputs)
    bits = network_bits.shape[1]
    packed = np.packbits(network_bits.numpy(), axis=1)
    ranked = rank(packed, packed, Relevance(targets, targets), bits, ks=())
    return float(np.nanmean(average_precision(ranked.counts, ranked.hits).expected))


def build_hash_network(architecture: dict[str, Any]) -> HashNetwork:
    """The network that a checkpoint's architecture describes, its weights drawn at random."""
    made = build_model(**architecture["backbone"])
    return HashNetwork(made, architecture["bits"], architecture["classifier"])


def check_split(saved: HashSplit, drawn: HashSplit) -> None:
    """Refuses to go on with a run whose split has changed.

    Raises:
        StateError: The images of a set are others, or the source's are.
    """
    same = saved.fingerprint == drawn.fingerprint and all(
        getattr(saved, part).equal(getattr(drawn, part)) for part in ("query", "database", "train")
    )
    if not same:
        raise StateError(
            "The run was trained on another split or other images than the data hold now; give the"
            " data that it was trained with, or train again."
        )
