"""Feeds broken and hostile files to every reader: a sentence or a result, never a traceback.

    python -m tests.campaigns.fuzz --minutes 10

The readers are those of configurations, checkpoints, whole run folders, metrics, unfinished
evaluations, image folders, parquet files and NumPy's arrays. Each gets a good file with bytes
flipped, cut, repeated and put in from a list of what has hurt such readers before. Python's audit
events say whether a program was started: none may be.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.campaigns import report

from advreg.data import load_data
from advreg.errors import AdvregError
from advreg.evaluation.pieces import Piece, Pieces
from advreg.hashing.data import load_images
from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    RunFolder,
    RunSettings,
    builders,
    load_run,
    resolve,
    train,
)
from advreg.training.configuration import read_yaml

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

NASTY = [
    b"\x00", b"\xff\xfe", b"nan", b"-1", b"1e999", b"99999999999999999999", b"[" * 500, b"{" * 50,
    b"!!python/object/apply:os.system ['true']", b"&a [*a]", b"../../", b"\x80\x04cos\nsystem\n.",
    b"os:system", b"\n", b": ", b"null", b"true", b"''", b"\xed\xa0\x80", b"PK\x03\x04", b"PAR1",
    b"%!PS-Adobe-3.0 EPSF-3.0\n", b"__import__('os')", b"\x89PNG\r\n\x1a\n", b"- ", b"0x7fffffff",
]  # fmt: skip
"""What has hurt readers before."""

CALLS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.startfile")
"""Of Python's audit events: a reader has no business with these."""


MEMORY = 12 * 2**30
"""Bytes of address space that the campaign may have: torch alone reserves a few of them."""


class Watch:
    """Counts the programs that readers start."""

    def __init__(self) -> None:
        self.active = False
        self.calls: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event in CALLS:
            self.calls.append(f"{event} {arguments!r:.200}")


def mutate(data: bytes, draw: random.Random) -> bytes:
    """A file with one to four things done to it."""
    for _ in range(draw.randint(1, 4)):
        place = draw.randint(0, len(data))
        what = draw.choice(["flip", "cut", "insert", "replace", "repeat", "drop"])
        if what == "flip" and data:
            place = min(place, len(data) - 1)
            data = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        elif what == "cut" and draw.random() < 0.3:
            data = data[:place]
        elif what == "insert":
            data = data[:place] + draw.choice(NASTY) + data[place:]
        elif what == "replace":
            piece = draw.choice(NASTY)
            data = data[:place] + piece + data[place + len(piece) :]
        elif what == "repeat":
            data = data[:place] + data[max(place - draw.randint(1, 60), 0) :]
        elif what == "drop":
            data = data[:place] + data[place + draw.randint(1, 40) :]
    return data


class Trials:
    """The good files, and a trial for each reader."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        train(self._configuration(), quiet=True)
        torch.save({"architecture": {}, "format": 1, "model": {}}, folder / "old.pt")
        for split in ("train", "test"):
            for label in ("cat", "dog"):
                (folder / "images" / split / label).mkdir(parents=True)
                for number in range(3):
                    path = folder / "images" / split / label / f"{number}.png"
                    Image.new("RGB", (4, 4), (40 * number, 9, 1)).save(path)
        self._parquet(folder / "parquet")
        with Pieces({"seed": 0}, folder / "partial.npz") as pieces:
            pieces.put("clean", Piece(np.ones((3, 2)), 0.5, 1, 1))
        self._arrays(folder / "arrays")
        self.trials: dict[str, Callable[[random.Random], object]] = {
            "configuration": self.configuration,
            "settings": self.settings,
            "checkpoint": self.checkpoint,
            "checkpoint's values": self.values,
            "run folder": self.run_folder,
            "metrics": self.metrics,
            "unfinished evaluation": self.pieces,
            "image folder": self.images,
            "parquet": self.parquet,
            "arrays": self.arrays,
            "arrays to hash": self.arrays_to_hash,
        }

    def _configuration(self) -> Configuration:
        run = RunSettings(
            str(self.run), 1, batch_size=20, tensorboard=False, device="cpu", threads=1
        )
        data = DataSettings("digits", limit=20, validation=10)
        return Configuration(run, data, method=MethodSettings("layerwise"))

    def _parquet(self, folder: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        folder.mkdir()
        image = (self.folder / "images" / "train" / "cat" / "0.png").read_bytes()
        rows = {"img": [{"bytes": image, "path": "a"}] * 6, "label": [0, 1, 0, 1, 0, 1]}
        for split in ("train", "test"):
            pyarrow.parquet.write_table(pyarrow.table(rows), folder / f"{split}-0.parquet")

    def _arrays(self, folder: Path) -> None:
        """The same arrays as files to map, and as one file as it is and one packed."""
        folder.mkdir()
        images = np.random.default_rng(0).integers(0, 256, (9, 1, 4, 4), dtype=np.uint8)
        arrays = {"images": images, "targets": np.arange(9) % 3, "classes": np.array(list("abc"))}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        np.savez(folder / "plain.npz", **arrays)
        np.savez_compressed(folder / "packed.npz", **arrays)

    def _broken(self, path: Path, draw: random.Random, name: str = "") -> Path:
        broken = self.folder / (name or f"broken{path.suffix}")
        broken.write_bytes(mutate(path.read_bytes(), draw))
        return broken

    def configuration(self, draw: random.Random) -> object:
        values = read_yaml(self._broken(self.run / "config.yaml", draw))
        return resolve(Configuration.from_dict(values))

    def settings(self, draw: random.Random) -> object:
        """A setting of a value that another setting, or none, would have."""
        values = read_yaml(self.run / "config.yaml")
        part = draw.choice([values, *(v for v in values.values() if isinstance(v, dict))])
        odd = [
            None,
            -1,
            0,
            10**30,
            1e308,
            float("nan"),
            "",
            "x" * 999,
            [],
            [[]],
            {},
            {"a": {}},
            True,
        ]
        part[draw.choice([*part, "unknown"])] = draw.choice(
            [*odd, "os:system", "../..", "\x00", True]
        )
        return builders.method_of(resolve(Configuration.from_dict(values)))

    def checkpoint(self, draw: random.Random) -> object:
        folder = RunFolder(self.run)
        return folder.load(self._broken(draw.choice([folder.last, folder.best]), draw))

    def values(self, draw: random.Random) -> object:
        """A checkpoint that is whole, by its checksum, and says what it should not."""
        copy = self._copy()
        folder = RunFolder(copy)
        path = draw.choice([folder.best, folder.last])
        contents: Any = folder.load(path)
        inner: Any = contents
        for _ in range(draw.randint(0, 3)):
            nested = [v for v in inner.values() if isinstance(v, dict) and v]
            if nested:
                inner = draw.choice(nested)
        odd = [None, -1, 10**20, float("nan"), "os:system", [], {}, torch.ones(3), torch.ones(0)]
        key = draw.choice(list(inner))
        if draw.random() < 0.3:
            del inner[key]
        else:
            inner[key] = draw.choice(odd)
        folder.save(path, contents)
        return load_run(copy) if path == folder.best else self._resume(copy)

    def run_folder(self, draw: random.Random) -> object:
        copy = self._copy()
        names = [path for path in copy.iterdir() if path.is_file()]
        for path in draw.sample(names, draw.randint(1, 2)):
            act = draw.choice(["break", "remove", "folder"])
            if act == "break":
                path.write_bytes(mutate(path.read_bytes(), draw))
                continue
            path.unlink()
            if act == "folder":
                path.mkdir()
        load_run(copy)
        return self._resume(copy)

    def _copy(self) -> Path:
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run, copy)
        return copy

    def _resume(self, copy: Path) -> object:
        values = {**RunFolder(copy).configuration().to_dict(), "out": str(copy)}
        return train(Configuration.from_dict(values), resume=True, quiet=True)

    def metrics(self, draw: random.Random) -> object:
        copy = self.folder / "metrics"
        copy.mkdir(exist_ok=True)
        good = (self.run / "metrics.jsonl").read_bytes() * 3
        (copy / "metrics.jsonl").write_bytes(mutate(good, draw))
        return RunFolder(copy).read_metrics()

    def pieces(self, draw: random.Random) -> object:
        return Pieces({"seed": 0}, self._broken(self.folder / "partial.npz", draw))

    def images(self, draw: random.Random) -> object:
        return self._data("images", "*/*/*.png", draw)

    def parquet(self, draw: random.Random) -> object:
        return self._data("parquet", "*.parquet", draw)

    def arrays(self, draw: random.Random) -> object:
        if draw.random() < 0.5:
            return self._data("arrays", "*.npy", draw)
        return load_data(self._broken_arrays(draw), validation=2)

    def arrays_to_hash(self, draw: random.Random) -> object:
        return load_images(self._broken_arrays(draw))

    def _broken_arrays(self, draw: random.Random) -> Path:
        """A damaged file; or a whole one, by its checksums, of a damaged array."""
        whole = self.folder / "arrays"
        if draw.random() < 0.5:
            return self._broken(draw.choice(sorted(whole.glob("*.npz"))), draw)
        path = self.folder / "broken.npz"
        odd = draw.choice(sorted(whole.glob("*.npy")))
        with zipfile.ZipFile(path, "w") as file:
            for array in whole.glob("*.npy"):
                contents = array.read_bytes()
                file.writestr(array.name, mutate(contents, draw) if array == odd else contents)
        return path

    def _data(self, name: str, pattern: str, draw: random.Random) -> object:
        copy = self.folder / "data"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder / name, copy)
        path = draw.choice(sorted(copy.glob(pattern)))
        path.write_bytes(mutate(path.read_bytes(), draw))
        return load_data(copy, validation=2)


def campaign(minutes: float, seed: int, only: str = "") -> dict[str, Any]:
    """Tries readers whose names hold `only` for so many minutes, and counts how it went by each."""
    draw, watch = random.Random(seed), Watch()
    counts: dict[str, Counter[str]] = {}
    tracebacks: dict[str, str] = {}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        trials = Trials(Path(temporary)).trials
        trials = {name: trial for name, trial in trials.items() if only in name}
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            name = draw.choice(list(trials))
            counted = counts.setdefault(name, Counter())
            watch.active = True
            try:
                trials[name](draw)
                counted["read"] += 1
            except AdvregError as error:
                counted["a sentence"] += 1
                if "\n" in str(error).strip() or len(str(error)) > 2000:
                    tracebacks.setdefault(f"{name}: no sentence", str(error)[:300])
            except Exception as error:
                counted["a traceback"] += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                key = f"{name}: {type(error).__name__} at {Path(where.filename).name}"
                tracebacks.setdefault(key, "".join(traceback.format_exception(error))[-1500:])
            finally:
                watch.active = False
    return {
        "trials": sum(sum(counted.values()) for counted in counts.values()),
        "tracebacks": sum(counted["a traceback"] for counted in counts.values()),
        "programs_started": watch.calls,
        "by_reader": {name: dict(counted) for name, counted in sorted(counts.items())},
        "kinds_of_tracebacks": tracebacks,
        "seed": seed,
        "minutes": minutes,
    }


def limit_memory() -> None:
    """A file that asks for more than `MEMORY` ends in an error, and not the machine in trouble."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Readers whose names hold this.")
    parser.add_argument("--out")
    options = parser.parse_args()
    limit_memory()
    figures = campaign(options.minutes, options.seed, options.only)
    report("campaign_fuzz", figures, options.out)
    return bool(figures["kinds_of_tracebacks"] or figures["programs_started"])


if __name__ == "__main__":
    raise SystemExit(main())
