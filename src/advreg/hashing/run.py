"""Training a hash network into a run folder, and loading it again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advreg.evaluation.identity import content_hash
from advreg.hashing.codes import HashNetwork, bits_of, outputs_of
from advreg.hashing.data import HashImages, load_images
from advreg.hashing.session import HashSession, build_hash_network
from advreg.hashing.settings import HashConfiguration, check_is_hashing
from advreg.hashing.splits import HashSplit
from advreg.models import check_trusted
from advreg.training.builders import spelt_out
from advreg.training.configuration import Configuration, read_yaml
from advreg.training.folder import RunFolder
from advreg.training.loading import deployed_checkpoint
from advreg.training.loop import run_session


class HashRunFolder(RunFolder):
    """A folder that holds one hashing run: as `RunFolder`, and `split.npz`, the ids of its split.

    There is no `best.pt`: the network of the last epoch is the one that is used, for choosing an
    epoch by its queries flatters the figures by a point or more.

    Args:
        path: The folder; it need not exist.
    """

    command = ("advreg", "hash", "train")
    kind = HashConfiguration

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.split = self.path / "split.npz"

    @property
    def written(self) -> list[Path]:
        """The files that a run has, before its first epoch is over."""
        return [*super().written, self.split]

    def configuration(self) -> HashConfiguration:
        """The configuration that the run began with.

        Raises:
            ConfigurationError: The run is of another kind.
        """
        self.check_is_run()
        check_is_hashing(read_yaml(self.config), self.path)
        found = super().configuration()
        assert isinstance(found, HashConfiguration)
        return found


@dataclass(frozen=True)
class HashResult:
    """What a finished run left behind.

    Attributes:
        folder: The run folder; `load_hash_run` reads the network from it.
        metrics: One mapping an epoch, as in `metrics.jsonl`.
    """

    folder: Path
    metrics: list[dict[str, Any]]


def train_hash(
    configuration: HashConfiguration,
    *,
    images: HashImages | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> HashResult:
    """Trains a hash network through the loop that trains classifiers.

    On the CPU a run that was interrupted anywhere and resumed equals one that was not, to the bit.

    Args:
        configuration: What to train, on what, how.
        images: Those of its source, where they are in memory already; None reads them.
        resume: Go on with the run in the folder; where there is none, start it.
        quiet: Print nothing.

    Raises:
        AdvregError: The configuration, the data or the folder cannot work, or the training
            diverged.
        Interrupted: Ctrl-C, SIGTERM or a hangup; the run was saved and can be resumed.
    """
    configuration = resolved(configuration)
    folder = HashRunFolder(configuration.run.out)
    kind = partial(HashSession, images=images)
    _, metrics = run_session(kind, configuration, folder, resume=resume, quiet=quiet)
    return HashResult(folder.path, metrics)


def resolved(configuration: HashConfiguration) -> HashConfiguration:
    """The configuration with every setting of its method spelt out.

    What was tuned for classifying a data set is not used: it was not tuned for codes.
    """
    found: Configuration = spelt_out(configuration)
    assert isinstance(found, HashConfiguration)
    return found


@dataclass(frozen=True, eq=False)
class HashRun:
    """A trained hash network with what it was trained on.

    Attributes:
        network: In evaluation mode, on the CPU.
        configuration: The run's.
        folder: The run's.
        identity: The content hash of the weights; an index keeps it.
        image_shape: Channels, height and width of its inputs.
        loaded: The images of its source, where they are in memory already.
    """

    network: HashNetwork
    configuration: HashConfiguration
    folder: HashRunFolder
    identity: str
    image_shape: tuple[int, int, int]
    loaded: HashImages | None = None

    def split(self) -> HashSplit:
        """The split that the run was trained with, by ids."""
        return HashSplit.load(self.folder.split)

    def images(self) -> HashImages:
        """All images of its source, once they are seen to be those of the split.

        Raises:
            StateError: They are others, or in another order.
        """
        data = self.configuration.data
        images = self.loaded or load_images(data.name, data.download)
        self.split().check_images(images.targets)
        return images

    @cached_property
    def codes(self) -> np.ndarray:
        """The packed codes of all images of its source by id, (I, q / 8) uint8; made once."""
        return self.network.format.pack(bits_of(outputs_of(self.network, self.images().images)))


def load_hash_run(
    path: str | os.PathLike[str], model: str | None = None, images: HashImages | None = None
) -> HashRun:
    """Loads the network of a run's last epoch, or its moving average where there is one.

    Args:
        path: The run folder.
        model: `module:function` of a backbone of the user's own, which is imported only where it
            is named here.
        images: Those of the run's source, where they are in memory already.

    Raises:
        RunError: The folder is missing, holds no run, no checkpoint yet, or a damaged one.
        ConfigurationError: The run is of another kind, or its backbone is code that is not named.
    """
    folder = HashRunFolder(path)
    configuration = folder.configuration()
    _, checkpoint = deployed_checkpoint(folder)
    check_trusted(checkpoint["architecture"]["backbone"]["name"], model)
    network = build_hash_network(checkpoint["architecture"])
    averaged = checkpoint["averaged"]
    weights = checkpoint["model"] if averaged is None else averaged["weights"]
    network.load_state_dict(weights)
    if configuration.run.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    channels, height, width = checkpoint["architecture"]["image_size"]
    shape = (channels, height, width)
    return HashRun(
        network.eval(), configuration, folder, content_hash(weights), shape, loaded=images
    )
