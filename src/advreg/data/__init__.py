"""Small images in memory: sources, splits, and batches augmented on the device."""

from advreg.data.augment import AUGMENTATIONS
from advreg.data.images import DataSplits, ImageData
from advreg.data.load import load_data
from advreg.data.loader import Loader, default_augmentation
from advreg.data.sources import NAMES

__all__ = [
    "AUGMENTATIONS",
    "NAMES",
    "DataSplits",
    "ImageData",
    "Loader",
    "default_augmentation",
    "load_data",
]
