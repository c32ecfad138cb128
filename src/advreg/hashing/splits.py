"""Which images are queries, database and training images; kept as ids, so that nothing is redrawn.

Ids count all images of a source, training images before test images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from advreg.data.splits import generator
from advreg.errors import ConfigurationError, DataError, RunError, StateError
from advreg.files import load_arrays, replace_arrays

Rule = Literal["disjoint", "inside", "own"]
"""Of a split: training images outside the database, inside it, or the source's own test images as
queries with all others as both training images and database."""


@dataclass(frozen=True)
class Protocol:
    """How a split is drawn.

    Args:
        rule: Where the training images are.
        query: Query images a class; with several labels an image, of each label's worth.
        train: Training images a class likewise.
    """

    rule: Rule
    query: int = 100
    train: int = 500


PROTOCOLS = {
    "cifar10": Protocol("disjoint", 100, 500),
    "cifar10-1": Protocol("inside", 100, 500),
    "cifar10-2": Protocol("own"),
    "digits": Protocol("disjoint", 20, 50),
}
"""Splits by name. Of 60,000 CIFAR-10 images: `cifar10`, 1,000 queries, 5,000 training images and
54,000 others as database; `cifar10-1`, the same queries and training images, the latter in the
database of 59,000; `cifar10-2`, the 10,000 test images as queries, the 50,000 training images as
database. One network's figures differ by ten points between them."""


@dataclass(frozen=True, eq=False)
class HashSplit:
    """The ids of three sets of images, and what the split says of their overlap.

    Args:
        name: The split's, for every figure that is measured on it.
        query: (Q,) int64.
        database: (N,) int64.
        train: (M,) int64.
        fingerprint: Of the images' targets; see `fingerprint`.
        train_in_database: Whether training images may be in the database.
        query_in_database: Whether queries may be.
        query_in_train: Whether queries may be training images.
        seed: That it was drawn from.

    Raises:
        DataError: A set is empty or names an image twice, or two overlap that may not.
    """

    name: str
    query: Tensor
    database: Tensor
    train: Tensor
    fingerprint: str
    train_in_database: bool = False
    query_in_database: bool = False
    query_in_train: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for part in ("query", "database", "train"):
            ids: Tensor = getattr(self, part)
            if ids.dtype != torch.int64 or ids.ndim != 1 or not len(ids):
                raise DataError(f"The {part} ids of the split {self.name!r} are no list of ids.")
            if len(ids.unique()) < len(ids):
                raise DataError(
                    f"The split {self.name!r} names an image of its {part} set twice; give each id"
                    " once."
                )
        for first, second, allowed in (
            ("query", "database", self.query_in_database),
            ("query", "train", self.query_in_train),
            ("train", "database", self.train_in_database),
        ):
            shared = int(torch.isin(getattr(self, first), getattr(self, second)).sum())
            if shared and not allowed:
                raise DataError(
                    f"{shared} {first} images of the split {self.name!r} are in its {second} set"
                    f" too; take them out, or say {first}_in_{second}=True."
                )

    def check_images(self, targets: Tensor) -> None:
        """Refuses images other than those that the split was drawn from.

        Args:
            targets: Of all images of the source, (I,) or (I, K).

        Raises:
            StateError: They are others, or in another order.
        """
        if fingerprint(targets) != self.fingerprint:
            raise StateError(
                f"The split {self.name!r} was drawn from other images or another order of them;"
                " give the data that the run was trained with."
            )

    def describe(self) -> str:
        """The split in a sentence, for beside its figures."""
        inside = "in" if self.train_in_database else "not in"
        return (
            f"Split {self.name}: {len(self.query)} queries, {len(self.database)} database images,"
            f" {len(self.train)} training images, which are {inside} the database."
        )

    def save(self, path: Path) -> None:
        """Writes the ids and the split's words as `.npz`."""
        words = ("name", "fingerprint", "seed")
        flags = ("train_in_database", "query_in_database", "query_in_train")
        arrays = {name: np.array(getattr(self, name)) for name in words + flags}
        ids = {name: getattr(self, name).numpy() for name in ("query", "database", "train")}
        replace_arrays(path, arrays | ids)

    @classmethod
    def load(cls, path: Path) -> HashSplit:
        """Reads what `save` wrote.

        Raises:
            RunError: It is missing or damaged.
        """
        try:
            found = load_arrays(path)
            query, database, train = (
                torch.from_numpy(found.pop(part)) for part in ("query", "database", "train")
            )
            words = {name: value.item() for name, value in found.items()}
            return cls(query=query, database=database, train=train, **words)
        except FileNotFoundError:
            raise RunError(f"{path} does not exist; name the folder of a hashing run.") from None
        except DataError:
            raise
        except (OSError, MemoryError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged; train the run again.") from error


def fingerprint(targets: Tensor) -> str:
    """A hash of all targets of a source in their order, by which a split knows its images."""
    values = targets.to(torch.int64).contiguous().cpu().numpy()
    return hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).hexdigest()


def draw_split(
    name: str,
    targets: Tensor,
    protocol: Protocol,
    *,
    test: int = 0,
    seed: int = 0,
) -> HashSplit:
    """Draws a split.

    Classes are drawn from one by one, in equal numbers; images with several labels from all alike,
    as many as the labels times the number of each.

    Args:
        name: The split's.
        targets: Of all images of the source, training images first: (I,) classes, or (I, K) 0/1.
        protocol: How to draw.
        test: How many of the last images are the source's own test images; of the rule "own".
        seed: Decides which images.

    Raises:
        DataError: A class has too few images, there is one class, or no test images.
        ConfigurationError: A number or the rule cannot work.
    """
    several = targets.ndim == 2
    if not several and len(targets.unique()) < 2:
        raise DataError("All images are of one class; give images of at least two.")
    ids = torch.arange(len(targets))
    if protocol.rule == "own":
        if not 0 < test < len(targets):
            raise DataError(
                f"The split {name!r} takes the source's own test images as queries and it has"
                " none; add them, or take the rule disjoint."
            )
        known, query = ids[:-test], ids[-test:]
        return HashSplit(
            name, query, known, known, fingerprint(targets), train_in_database=True, seed=seed
        )
    if protocol.rule not in ("disjoint", "inside"):
        raise ConfigurationError(f"rule is {protocol.rule!r}; give disjoint, inside or own.")
    for part in ("query", "train"):
        count = getattr(protocol, part)
        if not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"{part} is {count!r}; give a whole number of at least 1.")
    groups = (
        [ids] if several else [(targets == label).nonzero()[:, 0] for label in targets.unique()]
    )
    times = targets.shape[1] if several else 1
    query, train = _draw(name, groups, protocol.query * times, protocol.train * times, seed)
    inside = protocol.rule == "inside"
    taken = torch.zeros(len(targets), dtype=torch.bool)
    taken[query] = True
    if not inside:
        taken[train] = True
    return HashSplit(
        name,
        query,
        (~taken).nonzero()[:, 0],
        train,
        fingerprint(targets),
        train_in_database=inside,
        seed=seed,
    )


def _draw(
    name: str, groups: list[Tensor], query: int, train: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The first `query` and the next `train` of each group in a random order, ids rising."""
    random = generator(seed)
    queries, trains = [], []
    for group in groups:
        if len(group) <= query + train:
            whole = "and there are" if len(groups) == 1 else "of each class and one has"
            raise DataError(
                f"The split {name!r} takes {query + train} images {whole}"
                f" {len(group)}, which leaves none for the database; ask for fewer."
            )
        order = group[torch.randperm(len(group), generator=random)]
        queries.append(order[:query])
        trains.append(order[query : query + train])
    return torch.cat(queries).sort().values, torch.cat(trains).sort().values
