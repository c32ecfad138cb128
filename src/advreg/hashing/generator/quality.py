"""Frechet and kernel distances between sets of images, on features of a network of our own.

The published FID and KID use an Inception network trained on ImageNet. These do not: their figures
compare generators on one data set with one another, and with nothing that is published, which is
why they are called own-FID and own-KID everywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from advreg.data import ImageData, Loader
from advreg.errors import DataError
from advreg.models.convnet import ConvNet
from advreg.modes import evaluating

EPOCHS = 15
UPDATES = 300
"""The most of them where not given: features of many images need no more epochs."""
RATE = 2e-3
BLOCK = 500
"""Images in each of the sets whose kernel distances are averaged."""


class FeatureNetwork(nn.Module):
    """A small classifier of the training images; its features are 64 averages over pixels.

    Args:
        data: Whose channels, classes and statistics it is made for.
    """

    def __init__(self, data: ImageData) -> None:
        super().__init__()
        mean, deviation = data.statistics()
        channels = data.shape[0]
        base = ConvNet(len(data.classes), channels, mean, deviation)
        self.body = nn.Sequential(base.normalize, base.blocks)
        self.linear = nn.Linear(64, len(data.classes))

    def features(self, images: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, 64)."""
        found: Tensor = self.body(images).mean((2, 3))
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Takes (B, C, H, W) in [0, 1]; returns (B, K) logits."""
        logits: Tensor = self.linear(self.features(images))
        return logits


def train_features(data: ImageData, epochs: int | None = None, seed: int = 0) -> FeatureNetwork:
    """The network whose features the distances are on, trained on the training split's classes.

    Args:
        data: The training images.
        epochs: Of Adam at 0.002, in mini-batches of 64; None is 15, or as many as 300 updates are.
        seed: Of weights and order; torch's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FeatureNetwork(data)
    loader = Loader(data, min(64, len(data)), seed=seed, drop_last=True)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    fitting = max(min(EPOCHS, UPDATES // max(len(loader), 1)), 1)
    for epoch in range(epochs or fitting):
        for batch in loader.epoch(epoch):
            loss = functional.cross_entropy(network(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def features_of(network: FeatureNetwork, images: Tensor, batch_size: int = 500) -> np.ndarray:
    """Features of images, (N, C, H, W) uint8 or in [0, 1]: (N, 64) float64."""
    with evaluating(network), torch.no_grad():
        parts = [
            network.features(part / 255 if part.dtype == torch.uint8 else part)
            for part in images.split(batch_size)
        ]
    return torch.cat(parts).double().numpy()


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) (Heusel et al. 2017, arXiv 1706.08500).

    Args:
        first: (N, F) features, with means m and covariances S; at least two.
        second: (N', F) likewise.

    Raises:
        DataError: There are fewer than two.
    """
    for features in (first, second):
        if len(features) < 2:
            raise DataError("A covariance needs at least two images; give more.")
    means = [features.mean(0) for features in (first, second)]
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    # The eigenvalues of S S' are those of the symmetric S^(1/2) S' S^(1/2).
    values, vectors = np.linalg.eigh(np.atleast_2d(covariances[0]))
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    inner = np.linalg.eigvalsh(root @ np.atleast_2d(covariances[1]) @ root)
    traces = sum(float(np.trace(np.atleast_2d(part))) for part in covariances)
    distance = float(np.square(means[0] - means[1]).sum()) + traces
    return max(distance - 2 * float(np.sqrt(inner.clip(0)).sum()), 0.0)


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The unbiased squared MMD under the kernel (x . y / F + 1)^3 (Binkowski et al. 2018).

    The mean over blocks of at most 500 images of each (arXiv 1801.01401, KID); it may be below 0.

    Args:
        first: (N, F) features, at least two.
        second: (N', F) likewise.

    Raises:
        DataError: There are fewer than two.
    """
    if min(len(first), len(second)) < 2:
        raise DataError("A kernel distance needs at least two images of each kind; give more.")
    count = max(min(len(first), len(second)) // BLOCK, 1)
    size = min(len(first), len(second)) // count
    blocks = [slice(size * number, size * (number + 1)) for number in range(count)]
    return float(np.mean([_squared_mmd(first[block], second[block]) for block in blocks]))


def _squared_mmd(first: np.ndarray, second: np.ndarray) -> float:
    within = []
    for features in (first, second):
        kernel = _kernel(features, features)
        count = len(features)
        within.append((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
    return float(sum(within) - 2 * _kernel(first, second).mean())


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray((first @ second.T / first.shape[1] + 1) ** 3)


@dataclass(frozen=True)
class Quality:
    """Distances of generated to real images, lower being better; see the module on other figures.

    Attributes:
        own_fid: The Frechet distance to real images.
        own_kid: The kernel distance to them.
        real_fid: The Frechet distance between two sets of real images, training and other ones;
            what a perfect generator would have.
        real_kid: The kernel distance between them.
        features: What the distances are on, in words.
    """

    own_fid: float
    own_kid: float
    real_fid: float | None
    real_kid: float | None
    features: str

    def to_dict(self) -> dict[str, float | str | None]:
        """Ready for JSON."""
        return asdict(self)


def measure_quality(
    network: FeatureNetwork, generated: Tensor, training: Tensor, other: Tensor | None = None
) -> Quality:
    """Distances of generated to real images.

    Args:
        network: As `train_features` returns it.
        generated: (N, C, H, W) in [0, 1].
        training: (M, C, H, W) uint8, what the generator was trained on.
        other: (M', C, H, W) uint8 real images that it has not seen; where given, generated images
            are compared with them, and the training images as well.
    """
    made, known = features_of(network, generated), features_of(network, training)
    real = known if other is None else features_of(network, other)
    return Quality(
        frechet_distance(made, real),
        kernel_distance(made, real),
        None if other is None else frechet_distance(known, real),
        None if other is None else kernel_distance(known, real),
        f"64 features of a small network trained on the {len(training)} training images, not those"
        " of Inception",
    )
