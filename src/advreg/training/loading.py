"""The network that a run folder holds, ready for use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from advreg.data import DataSplits
from advreg.errors import RunError, StateError
from advreg.models import build_model, check_trusted
from advreg.training.configuration import Configuration
from advreg.training.folder import RunFolder
from advreg.training.identity import changes, data_fingerprint, settings_of_run
from advreg.units import choice

WEIGHTS = ("best", "last")
"""Which epoch's network is meant."""


def deployed_checkpoint(folder: RunFolder, weights: str = "best") -> tuple[Path, dict[str, Any]]:
    """The checkpoint with the network that a run deploys, and its file.

    Raises:
        ConfigurationError: `weights` is none of `WEIGHTS`.
        RunError: There is none yet, or it is damaged.
        StateError: It is no checkpoint of advreg's, or `config.yaml` is another run's.
    """
    choice("weights", weights, WEIGHTS)
    if weights == "best" and folder.best.exists():
        path, checkpoint = folder.best, folder.load(folder.best)
    else:
        found = folder.load_last()
        if found is None:
            raise RunError(f"{folder.last} does not exist; train the run to its first epoch.")
        path, checkpoint = found
    identity = checkpoint["identity"]
    if identity is not None:
        now = settings_of_run(folder.configuration())
        if differing := changes(identity["settings"], now):
            raise StateError(
                f"{path} and {folder.config.name} are of two runs ({differing}); put the right"
                " ones together."
            )
    return path, checkpoint


def load_run(
    path: str | os.PathLike[str],
    model: str | nn.Module | None = None,
    weights: str = "best",
) -> tuple[nn.Module, Configuration]:
    """Loads the network that a run deploys, from `best.pt`, or `last.pt` where there is none.

    With a moving average of the weights the average is what is deployed; both checkpoints hold it.

    Args:
        path: The run folder.
        model: Of a run of the user's own network: the network, whose weights are replaced; or the
            `module:function` that makes it, which is imported only where it is named here.
        weights: "best", of the epoch with the highest validation accuracy (with a method that the
            PGD monitor looks at, the highest mean of that and of the accuracy under PGD), or
            "last", of the last epoch.

    Returns:
        The plain network in evaluation mode, on the CPU, and the run's configuration.

    Raises:
        RunError: The folder is missing, holds no run, no checkpoint yet, or a damaged one; or the
            weights are not finite.
        StateError: The checkpoint is not this run's, or no checkpoint.
        ConfigurationError: The network is code that `model` does not name, or `weights` is neither.
    """
    folder = RunFolder(path)
    configuration = folder.configuration()
    name, checkpoint = deployed_checkpoint(folder, weights)
    if isinstance(model, nn.Module):
        network = model
    else:
        check_trusted(fitting(name, lambda: str(checkpoint["architecture"]["name"])), model)
        network = fitting(name, lambda: build_model(**checkpoint["architecture"]))
    fitting(name, lambda: network.load_state_dict(_deployed_weights(checkpoint)))
    if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        raise RunError(f"The weights in {name} are not finite; train the run again.")
    return network.eval(), configuration


def deployed_epoch(folder: RunFolder, weights: str) -> int:
    """The epoch whose network `load_run` loads, from 1."""
    path, checkpoint = deployed_checkpoint(folder, weights)
    if path == folder.best:
        return int(fitting(path, lambda: checkpoint["epoch"]))
    return int(fitting(path, lambda: checkpoint["tally"]["epoch"]))


def last_network(path: str | os.PathLike[str]) -> nn.Module:
    """The network as it is after a run's last epoch, averaged where the run averages; on the CPU.

    Of a run of the user's own network its code is imported, as training it has done before.

    Args:
        path: The run folder.

    Raises:
        RunError: It holds no checkpoint, or a damaged one.
        StateError: The checkpoint does not hold what it should.
    """
    folder = RunFolder(path)
    checkpoint = folder.load(folder.last)
    network: nn.Module = fitting(folder.last, lambda: build_model(**checkpoint["architecture"]))
    fitting(folder.last, lambda: network.load_state_dict(_deployed_weights(checkpoint)))
    return network.eval()


def _deployed_weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    averaged = checkpoint.get("averaged")
    weights: dict[str, Any] = checkpoint["model"] if averaged is None else averaged["weights"]
    return weights


def fitting(path: Path, use: Callable[[], Any]) -> Any:
    """Uses what a checkpoint holds.

    Raises:
        StateError: A part is missing, or is not what it should be.
    """
    try:
        return use()
    except Exception as error:  # of hundreds of values each may be wrong in a way of its own
        first = (str(error).strip().splitlines() or [""])[0]
        raise StateError(
            f"{path} does not hold what this run needs ({type(error).__name__}: {first[:200]});"
            " put the run's own back, or train it again."
        ) from error


def check_test_data(folder: RunFolder, data: DataSplits, weights: str = "best") -> None:
    """Refuses to measure a network on other test images or classes than its run is for.

    Raises:
        RunError: They are not those that the run began with.
    """
    _, checkpoint = deployed_checkpoint(folder, weights)
    check_fingerprint(folder.path, checkpoint, data_fingerprint(data), "test")


def check_fingerprint(
    folder: Path, checkpoint: dict[str, Any], now: dict[str, str], *parts: str
) -> None:
    """Compares data with those that a checkpoint was trained on.

    Args:
        folder: The run's, for the message.
        checkpoint: What `RunFolder.load` returned.
        now: What `data_fingerprint` returned.
        *parts: Only these splits, and the classes; all where none is given.

    Raises:
        RunError: They differ.
    """
    before = (checkpoint["identity"] or {}).get("data", {})
    names = [f"{part} images" for part in parts] or list(before)
    differing = [n for n in dict.fromkeys([*names, "classes"]) if before.get(n, now[n]) != now[n]]
    if differing:
        raise RunError(
            f"The data of the run in {folder} have changed ({', '.join(differing)}); give those"
            " that it began with, or train again in another folder."
        )
