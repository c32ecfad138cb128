"""Deep hashing: binary codes of images, trained, searched, measured and attacked.

After Geng et al. (arXiv 1803.09466): a generator is trained on the training images alone
(`hashing.generator`), then a network whose codes are near for similar images, on whose generated
images the bits are drawn to be undecided. Each part stands by itself: codes and their layout,
losses, splits, retrieval figures, indexes, attacks.
"""

from advreg.hashing.attack import CodeAttack, attack_codes
from advreg.hashing.bitstatistics import bit_statistics
from advreg.hashing.codes import HashNetwork, bits_of, outputs_of, relaxed
from advreg.hashing.data import HashImages, load_images, split_images
from advreg.hashing.distances import hamming
from advreg.hashing.evaluation import evaluate_run
from advreg.hashing.index import HammingIndex
from advreg.hashing.losses import LOSSES, HashLoss, WithGenerated, build_loss
from advreg.hashing.packing import CodeFormat
from advreg.hashing.relevance import Relevance
from advreg.hashing.retrieval import evaluate_retrieval
from advreg.hashing.robustness import map_under_attack
from advreg.hashing.run import HashRun, load_hash_run, train_hash
from advreg.hashing.search import SearchResult, nearest
from advreg.hashing.settings import HashConfiguration
from advreg.hashing.splits import PROTOCOLS, HashSplit, Protocol, draw_split

__all__ = [
    "LOSSES",
    "PROTOCOLS",
    "CodeAttack",
    "CodeFormat",
    "HammingIndex",
    "HashConfiguration",
    "HashImages",
    "HashLoss",
    "HashNetwork",
    "HashRun",
    "HashSplit",
    "Protocol",
    "Relevance",
    "SearchResult",
    "WithGenerated",
    "attack_codes",
    "bit_statistics",
    "bits_of",
    "build_loss",
    "draw_split",
    "evaluate_retrieval",
    "evaluate_run",
    "hamming",
    "load_hash_run",
    "load_images",
    "map_under_attack",
    "nearest",
    "outputs_of",
    "relaxed",
    "split_images",
    "train_hash",
]
