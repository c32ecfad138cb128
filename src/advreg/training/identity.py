"""Which run a checkpoint belongs to: its settings, and its data by what is in them."""

from __future__ import annotations

import hashlib
from typing import Any

from advreg.data import DataSplits, ImageData
from advreg.data.mapped import release, rows_at_once
from advreg.training.configuration import Configuration

FREE_TO_CHANGE = {
    "out",
    "device",
    "devices",
    "strategy",
    "threads",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "tensorboard",
    "monitor",
    "probe",
    "data.download",
}
"""Settings that a resumed run may change: its result does not depend on them, or it is warned."""

MOVABLE = {"data.name"}
"""What may change as long as the data are the same by their content."""


def settings_of_run(configuration: Configuration) -> dict[str, Any]:
    """Every setting that the result depends on, by its dotted name."""
    settings: dict[str, Any] = {}
    for name, value in configuration.to_dict().items():
        if isinstance(value, dict):
            settings |= {f"{name}.{part}": inner for part, inner in value.items()}
        else:
            settings[name] = value
    return {name: value for name, value in settings.items() if name not in FREE_TO_CHANGE}


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two runs' settings, as `epochs was 2, is 3; ...`; empty for nothing.

    The data's place is no difference, and a setting that one advreg did not know yet neither.
    """
    names = before.keys() | {name for name in now if name.startswith("method.")}
    return "; ".join(
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(names - MOVABLE)
        if before.get(name) != now.get(name)
    )


def data_fingerprint(data: DataSplits) -> dict[str, str]:
    """SHA-256 of each split's images with their labels, and of the classes' names."""
    names = "\0".join(data.train.classes).encode(errors="surrogateescape")
    splits = {"training": data.train, "validation": data.validation, "test": data.test}
    return {
        **{f"{name} images": _split_hash(split) for name, split in splits.items()},
        "classes": hashlib.sha256(names).hexdigest(),
    }


def _split_hash(split: ImageData) -> str:
    digest = hashlib.sha256(repr(tuple(split.images.shape)).encode())
    for tensor in (split.images, split.targets):
        for part in tensor.split(rows_at_once(tensor)):
            digest.update(part.cpu().contiguous().numpy().data)
            release(tensor)
    return digest.hexdigest()
