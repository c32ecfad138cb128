"""An interval of a difference that would be another one with other seeds and other test images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from advreg.errors import ConfigurationError

RESAMPLES = 10_000


def bootstrap(
    differences: NDArray[np.int8],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The expanded percentile interval of a mean over seeds and images, both drawn again.

    A difference is the mean, an effect of its seed, one of its image, and a rest. Effects of seeds
    and of images are drawn with replacement, independently of one another. What the rest adds to
    the mean's variance is already in the seeds' effects as they are found, so it is taken out of
    the images' by shrinking them (Davison and Hinkley 1997, section 3.8); drawing whole seeds and
    images instead would count it three times (Owen 2007). Percentiles of few seeds are too narrow,
    so those taken here lie further out, as Student's t and the bias of the standard deviation ask
    for (Hesterberg 2015, "What teachers should know about the bootstrap").

    Args:
        differences: (seeds, images): 1 where only the first network is right, -1 where only the
            second is, else 0; two seeds and two images or more.
        confidence: Of the interval.
        resamples: How often seeds and images are drawn.
        seed: The same seed gives the same interval.

    Raises:
        ConfigurationError: There are fewer than two seeds or images.
    """
    seeds, images = differences.shape
    if min(seeds, images) < 2:
        raise ConfigurationError(
            f"A bootstrap needs at least 2 seeds and 2 images and there are {seeds} and {images};"
            " run more seeds or evaluate on more images."
        )
    of_seeds, of_images = effects(differences)
    # Few values are possible, so it is enough to draw how many images have each.
    values, counts = np.unique(of_images, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    drawn_images = generator.multinomial(images, counts / images, size=resamples)
    means = differences.mean() + drawn_seeds @ of_seeds / seeds + drawn_images @ values / images
    quantile = stats.t.ppf((1 - confidence) / 2, seeds - 1) * math.sqrt(seeds / (seeds - 1))
    tail = float(stats.norm.cdf(quantile))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def effects(differences: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What seeds and what images add to the mean.

    Args:
        differences: (seeds, images).

    Returns:
        Of the seeds (seeds,), and of the images (images,), these shrunk to the variance that is
        their own, which is zero where the rest explains all of it.
    """
    seeds, images = differences.shape
    of_seeds = differences.mean(1) - differences.mean()
    of_images = differences.sum(0) / seeds - differences.mean()
    total = np.square(differences - differences.mean()).sum()
    explained = images * np.square(of_seeds).sum() + seeds * np.square(of_images).sum()
    rest = (total - explained) / ((seeds - 1) * (images - 1))
    variance = np.square(of_images).sum() / (images - 1)
    own = max(variance - rest / seeds, 0.0)
    return of_seeds, of_images * math.sqrt(own / variance) if own else np.zeros(images)
