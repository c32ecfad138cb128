"""The folder of a generator's training, and loading the generator from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advreg.errors import RunError, StateError
from advreg.extras import needs
from advreg.files import check_folder, load_arrays, replace_arrays, replace_file
from advreg.hashing.generator.dcgan import Generator
from advreg.hashing.generator.settings import build_generator
from advreg.training.configuration import read_yaml

with needs("cli", "a folder of a generator"):
    import yaml

FORMAT = 1
"""Of checkpoints; another one is refused."""


class GeneratorFolder:
    """A folder that holds one generator.

    `generator.yaml` (settings), `metrics.jsonl` (a line for each inspection), `samples/` (grids),
    `last.pt` (everything that resuming needs), `generator.pt` (the averaged weights) and
    `generated.npz` (the images that a hash network is trained with).

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "generator.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.last = self.path / "last.pt"
        self.weights = self.path / "generator.pt"
        self.pool = self.path / "generated.npz"

    def check_free(self) -> None:
        """Refuses a folder that holds something.

        Raises:
            RunError: It does, or it is not a folder.
        """
        check_folder(self.path)
        if self.path.is_dir() and any(self.path.iterdir()):
            mend = "or go on with the training in it with --resume."
            if not self.config.is_file():
                mend = f"for it holds no generator's training ({self.config.name} is missing)."
            raise RunError(
                f"{self.path} exists and is not empty; name another folder with --out, {mend}"
            )

    def create(self, settings: dict[str, Any]) -> None:
        """Makes the folder and writes the settings into it."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(settings, sort_keys=False)
        replace_file(self.config, lambda path: path.write_text(text, encoding="utf-8"))

    def settings(self) -> dict[str, Any]:
        """The settings that the training began with.

        Raises:
            RunError: The folder holds no generator.
        """
        if not self.config.is_file():
            raise RunError(f"{self.path} holds no generator.yaml; name the folder of a generator.")
        return read_yaml(self.config)

    def check_same(self, settings: dict[str, Any]) -> None:
        """Refuses to go on under other settings.

        Raises:
            RunError: The folder holds no generator, or one with other settings.
        """
        before = self.settings()
        differing = sorted(
            name for name in before | settings if before.get(name) != settings.get(name)
        )
        if differing:
            changes = "; ".join(
                f"{name} was {before.get(name)}, is {settings.get(name)}" for name in differing
            )
            raise RunError(
                f"The generator in {self.path} began with other settings ({changes}); resume it"
                " with its own, or name another folder with --out."
            )

    def save(self, path: Path, contents: dict[str, Any]) -> None:
        """Writes a checkpoint of plain values and tensors."""
        replace_file(path, lambda name: torch.save({"format": FORMAT, **contents}, name))

    def load(self, path: Path) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU.

        Raises:
            RunError: It is missing or damaged.
            StateError: It is of another format.
        """
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise RunError(f"{path} does not exist; train the generator to its end.") from None
        except Exception as error:  # torch raises many kinds for a broken file
            raise RunError(f"{path} is damaged; train the generator again.") from error
        found = contents.get("format") if isinstance(contents, dict) else None
        if found != FORMAT:
            raise StateError(f"{path} has format {found}, not {FORMAT}; train again.")
        return contents

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines so far; one that a kill has cut short is left out."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def cut_metrics(self, step: int) -> None:
        """Drops the lines of later steps: they will be run again."""
        kept = [json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step]
        replace_file(self.metrics, lambda path: path.write_text("".join(kept), encoding="utf-8"))

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Appends a line."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save_pool(self, images: Tensor) -> None:
        """Writes generated images, (N, C, H, W) uint8."""
        replace_arrays(self.pool, {"images": images.numpy()})

    def load_pool(self) -> Tensor:
        """Reads the generated images, (N, C, H, W) uint8.

        Raises:
            RunError: They are missing or damaged.
        """
        try:
            images = load_arrays(self.pool)["images"]
            if images.dtype != np.uint8 or images.ndim != 4:
                raise ValueError(f"{self.pool} holds {images.dtype} of shape {images.shape}")
            return torch.from_numpy(images)
        except FileNotFoundError:
            raise RunError(f"{self.pool} does not exist; train the generator to its end.") from None
        except (OSError, MemoryError, ValueError, KeyError) as error:
            raise RunError(f"{self.pool} is damaged; train the generator again.") from error


def load_generator(path: str | os.PathLike[str]) -> Generator:
    """The generator with averaged weights of a finished training, in evaluation mode on the CPU.

    Raises:
        RunError: The folder holds none, or a damaged one.
    """
    folder = GeneratorFolder(path)
    contents = folder.load(folder.weights)
    generator = build_generator(**contents["architecture"])
    generator.load_state_dict(contents["generator"])
    return generator.eval()
