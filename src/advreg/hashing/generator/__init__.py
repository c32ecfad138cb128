"""Stage one: a generator of images, trained on the training images alone."""

from advreg.hashing.generator.folder import GeneratorFolder, load_generator
from advreg.hashing.generator.likeness import Likeness, TrainingImages, diagnosis, nearest_images
from advreg.hashing.generator.quality import (
    FeatureNetwork,
    Quality,
    frechet_distance,
    kernel_distance,
    measure_quality,
    train_features,
)
from advreg.hashing.generator.session import GeneratorSession, sample
from advreg.hashing.generator.settings import GeneratorSettings, build_critic, build_generator
from advreg.hashing.generator.training import GeneratorResult, train_generator

__all__ = [
    "FeatureNetwork",
    "GeneratorFolder",
    "GeneratorResult",
    "GeneratorSession",
    "GeneratorSettings",
    "Likeness",
    "Quality",
    "TrainingImages",
    "build_critic",
    "build_generator",
    "diagnosis",
    "frechet_distance",
    "kernel_distance",
    "load_generator",
    "measure_quality",
    "nearest_images",
    "sample",
    "train_features",
    "train_generator",
]
