"""The run folder: what lies in it, and writing it so that a kill leaves nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import shlex
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from torch import nn

from advreg.errors import ConfigurationError, RunError, StateError
from advreg.files import check_folder, replace_file
from advreg.models import build_model
from advreg.training.configuration import Configuration, read_yaml

FORMAT = 1
"""Of checkpoints; another one is refused."""

FREE_TO_CHANGE = {"out", "device", "threads", "checkpoint_every", "tensorboard", "monitor"}
"""Settings that a resumed run may change: its result does not depend on them."""


class RunFolder:
    """A folder that holds one run.

    `config.yaml` (resolved), `metrics.jsonl` (a line an epoch), `last.pt` (everything that
    resuming needs), `best.pt` (the deployed weights of the epoch with the best validation
    accuracy), and TensorBoard's event files.

    Args:
        path: The folder; it need not exist.
    """

    command: ClassVar[tuple[str, ...]] = ("advreg", "train")
    """What trains such a run."""
    kind: ClassVar[type[Configuration]] = Configuration
    """What `config.yaml` holds."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"

    def check_free(self) -> None:
        """Refuses a folder that holds something.

        Raises:
            RunError: It does, or it is not a folder.
        """
        check_folder(self.path)
        if self.path.is_dir() and any(self.path.iterdir()):
            raise RunError(
                f"{self.path} exists and is not empty; name another folder with --out, or go on"
                " with the run in it with --resume."
            )

    def check_same(self, configuration: Configuration) -> None:
        """Refuses to go on with a run under other settings than it began with.

        Raises:
            RunError: The folder holds no run, or a run with other settings.
        """
        self.check_is_run()
        now, before = configuration.to_dict(), self.configuration().to_dict()
        differing = sorted(
            key for key in before if key not in FREE_TO_CHANGE and now[key] != before[key]
        )
        if differing:
            changes = "; ".join(f"{key} was {before[key]}, is {now[key]}" for key in differing)
            raise RunError(
                f"The run in {self.path} began with other settings ({changes}); resume it with"
                " its own, or name another folder with --out."
            )

    def check_is_run(self) -> None:
        """Refuses a folder without a run.

        Raises:
            RunError: There is no such folder, or no configuration in it.
        """
        if not self.path.is_dir():
            raise RunError(f"{self.path} does not exist; name the folder of a run.")
        if not self.config.is_file():
            raise RunError(f"{self.path} holds no config.yaml; name the folder of a run.")

    def create(self, configuration: Configuration) -> None:
        """Makes the folder and writes the resolved configuration, with its origins, into it.

        Raises:
            ConfigurationError: A setting is no plain value.
        """
        try:
            text = yaml.safe_dump(configuration.to_dict(), sort_keys=False)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ConfigurationError(
                f"A setting cannot be written to config.yaml ({reason}); give numbers and text."
            ) from None
        origins = [f"# {name}: {source}\n" for name, source in configuration.origins.items()]
        text = "".join(origins) + text
        self.path.mkdir(parents=True, exist_ok=True)
        replace_file(self.config, lambda path: path.write_text(text, encoding="utf-8"))

    def configuration(self) -> Configuration:
        """The configuration that the run began with."""
        self.check_is_run()
        return self.kind.from_dict(read_yaml(self.config))

    def resume_command(self) -> str:
        """What to type to go on with the run."""
        name = self.configuration().method.name
        # Code of the user's own is only imported when the command line names it.
        own = ["--method", name] if ":" in name else []
        return shlex.join([*self.command, "--out", str(self.path), "--resume", *own])

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
            raise RunError(f"{path} does not exist; train the run to its first epoch.") from None
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{path} is damaged ({reason}); train the run again.") from None
        found = contents.get("format") if isinstance(contents, dict) else None
        if found != FORMAT:
            raise StateError(f"{path} has format {found}, not {FORMAT}; train the run again.")
        return contents

    def read_metrics(self) -> list[dict[str, Any]]:
        """The epochs' lines; one that a kill has cut short is left out."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def cut_metrics(self, epochs: int) -> None:
        """Drops the lines of epochs after the given number of them: they will be run again."""
        kept = [json.dumps(line) + "\n" for line in self.read_metrics() if line["epoch"] <= epochs]
        replace_file(self.metrics, lambda path: path.write_text("".join(kept), encoding="utf-8"))

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Appends an epoch's line."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def load_run(path: str | os.PathLike[str]) -> tuple[nn.Module, Configuration]:
    """Loads the network that a run deploys, from `best.pt`, or `last.pt` where there is none.

    With a moving average of the weights the average is what is deployed; both checkpoints hold it.

    Args:
        path: The run folder.

    Returns:
        The plain network in evaluation mode, on the CPU, and the run's configuration.

    Raises:
        RunError: The folder is missing, holds no run, no checkpoint yet, or a damaged one.
    """
    folder = RunFolder(path)
    configuration = folder.configuration()
    checkpoint = folder.load(folder.best if folder.best.is_file() else folder.last)
    model = build_model(**checkpoint["architecture"])
    averaged = checkpoint.get("averaged")
    model.load_state_dict(checkpoint["model"] if averaged is None else averaged["weights"])
    return model.eval(), configuration
