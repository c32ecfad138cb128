"""The run folder: what lies in it, and writing it so that a kill leaves nothing half-written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import yaml

from advreg.errors import ConfigurationError, DamagedCheckpointWarning, RunError
from advreg.files import as_argument, check_folder, flush, remove_leftovers, replace_file, writing
from advreg.models import is_own_code
from advreg.training.checkpoint import read_checkpoint, write_checkpoint
from advreg.training.configuration import Configuration, read_yaml
from advreg.training.identity import changes, settings_of_run
from advreg.training.lock import Lock


class RunFolder:
    """A folder that holds one run.

    `config.yaml` (resolved), `metrics.jsonl` (a line an epoch), `last.pt` (everything that
    resuming needs), `last-1.pt` and so on (the ones before it), `best.pt` (the deployed weights of
    the epoch with the best validation accuracy), and TensorBoard's event files.

    Whatever cannot be written is a `RunError` in one sentence, and leaves what was there.

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
        self.events = self.path / "tensorboard"
        self.lock = Lock(self.path)

    def previous(self, number: int) -> Path:
        """The checkpoint so many before the last one, which is number 0."""
        return self.path / f"last-{number}.pt" if number else self.last

    def check_free(self) -> None:
        """Refuses a folder that holds something.

        Raises:
            RunError: It does, or it is not a folder.
        """
        check_folder(self.path)
        if self.path.is_dir() and any(path != self.lock.path for path in self.path.iterdir()):
            mend = "or go on with the run in it with --resume."
            if not self.config.is_file():
                mend = "for it holds no run (config.yaml is missing)."
            raise RunError(
                f"{self.path} exists and is not empty; name another folder with --out, {mend}"
            )

    def check_same(self, configuration: Configuration) -> None:
        """Refuses to go on with a run under other settings than it began with.

        Raises:
            RunError: The folder holds no run, or a run with other settings.
        """
        self.check_is_run()
        before = settings_of_run(self.configuration())
        if differing := changes(before, settings_of_run(configuration)):
            raise RunError(
                f"The run in {self.path} began with other settings ({differing}); resume it with"
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
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        replace_file(self.config, lambda path: path.write_text(text, encoding="utf-8"))

    def configuration(self) -> Configuration:
        """The configuration that the run began with.

        Raises:
            RunError: There is none.
            ConfigurationError: It cannot be read, or is of a run of codes and the folder is not.
        """
        self.check_is_run()
        values = read_yaml(self.config)
        if "code" in values and "code" not in self.kind.parts:
            command = shlex.join(["advreg", "hash", "evaluate", as_argument(self.path)])
            raise ConfigurationError(
                f"{self.path} holds a run of codes, made by advreg hash train; measure it with:"
                f" {command}"
            )
        return self.kind.from_dict(values)

    def resume_command(self) -> str:
        """What to type to go on with the run."""
        method = self.configuration().method.name
        own = ["--method", method] if ":" in method else []
        return shlex.join(
            [*self.command, "--out", as_argument(self.path), "--resume", *own, *self._own_model()]
        )

    def finished(self) -> str:
        """A sentence for the end of the training: where the run is, and what to type next."""
        path = as_argument(self.path)
        command = [*self.command[:-1], "evaluate", path, *self._own_model()]
        return f"The run is in {shlex.quote(path)}; next: {shlex.join(command)}"

    def _own_model(self) -> list[str]:
        # Code of the user's own is only imported when the command line names it.
        model = self.configuration().model.name
        return ["--model", model] if is_own_code(model) else []

    def clean(self) -> None:
        """Removes what killed runs left half-written; only for the holder of the lock."""
        for path in (self.config, self.metrics, self.last, self.best, self.previous(1)):
            remove_leftovers(path, everybodys=True)

    def empty(self) -> None:
        """Removes what a run writes, and nothing else; only for the holder of the lock."""
        for path in self.written:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.events, ignore_errors=True)

    @property
    def written(self) -> list[Path]:
        """The files that a run has, before its first epoch is over."""
        return [self.config, self.metrics, self.last]

    def save(self, path: Path, contents: dict[str, Any]) -> None:
        """Writes a checkpoint of plain values and tensors."""
        replace_file(path, partial(write_checkpoint, contents=contents))

    def save_last(self, contents: dict[str, Any], keep: int) -> None:
        """Writes `last.pt`; the `keep` - 1 before it stay beside it."""
        for number in range(keep - 1, 0, -1):
            newer, older = self.previous(number - 1), self.previous(number)
            if newer.is_file():
                # A second name and not another one, so that `last.pt` is there at every moment.
                replace_file(older, partial(_link, newer))
        self.save(self.last, contents)

    def load(self, path: Path) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU.

        Raises:
            RunError: It is missing or damaged.
            StateError: It is of another format.
        """
        return read_checkpoint(path)

    def load_last(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole, and its file.

        Returns:
            None for a run that was stopped before its first checkpoint.

        Warns:
            DamagedCheckpointWarning: A newer one is damaged, or the last one is missing.

        Raises:
            RunError: All are damaged, or there is none although epochs were trained.
            StateError: One is no checkpoint, or a newer advreg's.
        """
        found = [
            path for path in (self.last, *sorted(self.path.glob("last-*.pt"))) if path.exists()
        ]
        if not found and (self.best.exists() or self.read_metrics()):
            raise RunError(
                f"{self.last} is missing, although epochs were trained; put it back, or train"
                " again in another folder with --out."
            )
        first: RunError | None = None
        missing = f"{self.last} is missing; put it back, if you have it."
        for path in found:
            try:
                contents = self.load(path)
            except RunError as error:
                first = first or error
                continue
            if path != self.last:
                reason = first if self.last.exists() else missing
                message = f"{reason} The run goes on from {path.name}, from before it."
                warnings.warn(message, DamagedCheckpointWarning, stacklevel=2)
            return path, contents
        if first is not None:
            raise first
        return None

    def read_metrics(self) -> list[dict[str, Any]]:
        """The epochs' lines; one that a kill has cut short is left out.

        Raises:
            RunError: A line is no epoch's.
        """
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_bytes().splitlines(keepends=True)
        return [
            self._record(number, line)
            for number, line in enumerate(lines, 1)
            if line.endswith(b"\n") and line.strip()
        ]

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if not isinstance(record["epoch"], int):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunError(
                f"Line {number} of {self.metrics} is no epoch's; mend or remove it."
            ) from None
        return record

    def cut_metrics(self, epochs: int) -> None:
        """Drops the lines of epochs after the given number of them: they will be run again."""
        kept = [json.dumps(line) + "\n" for line in self.read_metrics() if line["epoch"] <= epochs]
        replace_file(self.metrics, lambda path: path.write_text("".join(kept), encoding="utf-8"))

    def add_metrics(self, record: dict[str, Any]) -> None:
        """Appends an epoch's line."""
        with writing(self.metrics):
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            flush(self.metrics)


def _link(newer: Path, name: Path) -> None:
    try:
        os.link(newer, name)
    except OSError:  # some file systems know no second names
        os.replace(newer, name)
