"""Images: sources, splits, batches augmented on the device; and data sets that carry indices."""

from advreg.data.augment import AUGMENTATIONS
from advreg.data.blocks import in_blocks
from advreg.data.identity import identify
from advreg.data.images import DataSplits, ImageData
from advreg.data.indices import keep_indices, take_indices, with_indices
from advreg.data.load import load_data
from advreg.data.loader import Loader
from advreg.data.parquet import Columns
from advreg.data.sources import NAMES

__all__ = [
    "AUGMENTATIONS",
    "NAMES",
    "Columns",
    "DataSplits",
    "ImageData",
    "Loader",
    "identify",
    "in_blocks",
    "keep_indices",
    "load_data",
    "take_indices",
    "with_indices",
]
