"""What a study's data are by their content, remembered so that a plan takes seconds."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from advreg.errors import RunError
from advreg.study.files import read_json, write_json
from advreg.training.builders import build_data
from advreg.training.identity import data_fingerprint
from advreg.training.settings import DataSettings

REMEMBERED = "data.json"


class Fingerprints:
    """The fingerprints of data, each found once, and kept in a study's folder.

    There a fingerprint holds as long as no file of the data has another size or time of change;
    data that are no folder are read again by each process.

    Args:
        out: The study's folder; None remembers nothing.
    """

    def __init__(self, out: Path | None = None) -> None:
        self.out = out
        self.known: dict[str, dict[str, str]] = {}
        self.found: dict[DataSettings, dict[str, str]] = {}
        if out is not None:
            with suppress(RunError):  # what is damaged is found again
                self.known = dict(read_json(out / REMEMBERED) or {})

    def __call__(self, data: DataSettings) -> dict[str, str]:
        """As `data_fingerprint`, whatever the augmentation."""
        which = data.as_they_are()
        if which not in self.found:
            self.found[which] = self._of(which)
        return self.found[which]

    def _of(self, data: DataSettings) -> dict[str, str]:
        state = _state(Path(data.name).expanduser())
        if self.out is None or state is None:
            return data_fingerprint(build_data(data))
        key = json.dumps([asdict(data), state], sort_keys=True)
        key = hashlib.sha256(key.encode()).hexdigest()
        if key not in self.known:
            self.known[key] = data_fingerprint(build_data(data))
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(self.out / REMEMBERED, self.known)
        return self.known[key]


def _state(folder: Path) -> str | None:
    """The names, sizes and times of all files, hashed; None where there is no folder."""
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            found = os.stat(os.path.join(place, name))
            digest.update(f"{place}/{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
