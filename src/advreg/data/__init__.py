"""Small images in memory, and data sets of any kind whose mini-batches carry their indices."""

from advreg.data.augment import AUGMENTATIONS
from advreg.data.identity import identify
from advreg.data.images import DataSplits, ImageData
from advreg.data.indices import keep_indices, take_indices, with_indices
from advreg.data.load import load_data
from advreg.data.loader import Loader
from advreg.data.sources import NAMES

__all__ = [
    "AUGMENTATIONS",
    "NAMES",
    "DataSplits",
    "ImageData",
    "Loader",
    "identify",
    "keep_indices",
    "load_data",
    "take_indices",
    "with_indices",
]
