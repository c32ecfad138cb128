"""An index: the codes of many images with what they are of, in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advreg.errors import ConfigurationError, DataError, RunError, StateError
from advreg.files import replace_file
from advreg.hashing import faiss_index
from advreg.hashing.packing import CodeFormat
from advreg.hashing.search import SearchResult, check_count, in_order, nearest

FORMAT = 2
"""Of index folders; another one is refused."""

FILES = ("codes.npy", "names.txt", "faiss.index")
"""Of an index, as far as it has them; `index.json` has their checksums and one of its own."""

KINDS = ("exact", "flat", "ivf", "hnsw")
"""Comparison with every code, ours and faiss's; inverted lists; a graph. The last two may pass
over a nearer code, and a graph is not the same from one building to the next."""

EXTRA = 32
"""More codes than asked for are fetched from faiss, whose equal distances are in any order."""


@dataclass(frozen=True)
class IndexFacts:
    """What an index is of.

    Attributes:
        network: The content hash of the network that made the codes.
        bits: q.
        size: Number of codes.
        kind: One of `KINDS`.
        layout: The codes' layout, for other programs.
    """

    network: str
    bits: int
    size: int
    kind: str
    layout: str


class HammingIndex:
    """Codes and the names of what they are of, searched by Hamming distance.

    Args:
        codes: (N, q / 8) uint8 packed codes; a memory-mapped file is read as it is searched.
        bits: q.
        network: The content hash of the network that made them.
        names: Of what each code is of, such as a path; the place by default.
        kind: One of `KINDS`; all but "exact" need faiss.

    Raises:
        ConfigurationError: There is no such kind.
        MissingExtraError: faiss is not installed.
        DataError: Codes and names do not fit.
    """

    def __init__(
        self,
        codes: np.ndarray,
        bits: int,
        network: str,
        names: Sequence[str] | None = None,
        kind: str = "exact",
    ) -> None:
        self._take(codes, bits, network, names, kind)
        self._faiss = None if kind == "exact" else faiss_index.build(kind, codes)

    def _take(
        self,
        codes: np.ndarray,
        bits: int,
        network: str,
        names: Sequence[str] | None,
        kind: str,
    ) -> None:
        if kind not in KINDS:
            raise ConfigurationError(
                f"There is no index {kind!r}; choose one of {', '.join(KINDS)}."
            )
        layout = CodeFormat(bits)
        if not len(layout.check(codes)):
            raise DataError("There are no codes to index; give at least one.")
        if names is not None and len(names) != len(codes):
            raise DataError(
                f"There are {len(names)} names for {len(codes)} codes; give one for each code."
            )
        self.codes = codes
        self.names = names
        self.facts = IndexFacts(network, bits, len(codes), kind, layout.describe())

    def __len__(self) -> int:
        return len(self.codes)

    def name(self, place: int) -> str:
        """What the code at a place is of."""
        return str(place) if self.names is None else self.names[place]

    def check_network(self, network: str) -> None:
        """Refuses queries of another network than the one that made the codes.

        Args:
            network: The content hash of the network that encodes the queries.

        Raises:
            StateError: It is another.
        """
        if network != self.facts.network:
            raise StateError(
                f"The index was made by another network ({self.facts.network[:12]}, and this is"
                f" {network[:12]}), whose codes mean something else; index the images again with"
                " this run."
            )

    def search(self, queries: np.ndarray, k: int) -> SearchResult:
        """The k nearest codes of each query.

        Args:
            queries: (Q, q / 8) uint8 packed codes.
            k: Codes for each query; all where there are fewer.

        Raises:
            DataError: The queries are no codes of this format.
            ConfigurationError: k is under one.
        """
        CodeFormat(self.facts.bits).check(queries)
        if self._faiss is None:
            return nearest(queries, self.codes, k)
        k = check_count(k, len(self))
        places, distances = faiss_index.search(self._faiss, queries, min(k + EXTRA, len(self)))
        # What was not found comes last, as the unsigned number of -1 would.
        far = np.where(places < 0, np.iinfo(np.int64).max, distances)
        places, far = in_order(places, far, k)
        missing = places < 0
        return SearchResult(places, np.where(missing, -1, far), exact=self.facts.kind == "flat")

    def save(self, folder: Path) -> None:
        """Writes `codes.npy`, `index.json`, and the names and faiss's index where there are any.

        Raises:
            ConfigurationError: A name has a line break in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.names is not None:
            if any("\n" in name or "\r" in name for name in self.names):
                raise ConfigurationError("A name has a line break in it; rename that image.")
            text = "".join(f"{name}\n" for name in self.names)
            contents = text.encode("utf-8", "surrogateescape")  # a path may be no text
            replace_file(folder / "names.txt", lambda path: path.write_bytes(contents))
        else:
            (folder / "names.txt").unlink(missing_ok=True)
        replace_file(folder / "codes.npy", lambda path: _write_array(path, self.codes))
        if self._faiss is not None:
            index = self._faiss
            replace_file(folder / "faiss.index", lambda path: faiss_index.write(index, path))
        else:
            (folder / "faiss.index").unlink(missing_ok=True)
        facts = _text({"format": FORMAT, **asdict(self.facts), "sha256": _checksums(folder)})
        # Last, so that a folder with facts is whole.
        replace_file(folder / "index.json", lambda path: path.write_bytes(facts))

    @classmethod
    def load(cls, folder: Path) -> HammingIndex:
        """Reads what `save` wrote; the codes stay in their file until they are searched.

        Raises:
            RunError: It is missing, or a byte of it has changed.
            StateError: It is of another format.
            MissingExtraError: It needs faiss, which is not installed.
        """
        facts = _read_facts(folder)
        try:
            codes = np.load(folder / "codes.npy", mmap_mode="r", allow_pickle=False)
            index = cls.__new__(cls)
            index._take(codes, facts.bits, facts.network, _read_names(folder), facts.kind)
        except Exception as error:  # numpy raises of every kind for a file that is none of its own
            raise _damaged(folder) from error
        index._faiss = None
        if facts.kind != "exact":
            index._faiss = faiss_index.read(folder / "faiss.index")
        stored = len(codes) if index._faiss is None else index._faiss.ntotal
        if (len(codes), stored) != (facts.size, facts.size):
            raise _damaged(folder)
        return index


def _read_facts(folder: Path) -> IndexFacts:
    try:
        text = (folder / "index.json").read_bytes()
        found: dict[str, Any] = json.loads(text)
        version = found.pop("format")
        if version != FORMAT:
            raise StateError(
                f"{folder} has format {version}, not {FORMAT}; make the index again with advreg"
                " hash index."
            )
        del found["checksum"]
        if text != _text({"format": version, **found}):
            raise _damaged(folder)
        sums = found.pop("sha256")
        facts = IndexFacts(**found)
        if sums != _checksums(folder):
            raise _damaged(folder)
        return facts
    except FileNotFoundError:
        raise RunError(f"{folder} holds no index; make one with advreg hash index.") from None
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, StateError):
            raise
        raise _damaged(folder) from error


def _read_names(folder: Path) -> list[str] | None:
    path = folder / "names.txt"
    if not path.is_file():
        return None
    return path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]


def _text(facts: dict[str, Any]) -> bytes:
    """The contents of `index.json`, with a checksum of all the rest of it."""
    rest = json.dumps(facts, indent=1)
    checksum = hashlib.sha256(rest.encode()).hexdigest()
    return json.dumps({**facts, "checksum": checksum}, indent=1).encode()


def _checksums(folder: Path) -> dict[str, str]:
    return {name: _checksum(folder / name) for name in FILES if (folder / name).is_file()}


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _damaged(folder: Path) -> RunError:
    return RunError(f"The index in {folder} is damaged; make it again with advreg hash index.")


def _write_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # of a path, numpy would change the ending
        np.save(file, array, allow_pickle=False)
