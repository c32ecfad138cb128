"""Starting, joining and leaving the processes that train one run together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any

import torch
from torch import distributed

from advreg.errors import AdvregError, ConfigurationError, RunError
from advreg.training.builders import choose_device
from advreg.training.configuration import Configuration
from advreg.training.settings import RunSettings
from advreg.training.team import ALONE, LostRankError, Team

PATIENCE = timedelta(days=1)
"""How long ranks wait for each other: for data, a validation. A process that ends is noticed."""

MEET = timedelta(minutes=10)
"""How long a process looks for the first one."""

LEAVE = 20.0
"""Seconds that a started process has to end by itself."""

ENDED = (
    "Another process of the run has ended (killed, or out of memory); the last good checkpoint is"
    " kept: go on with --resume."
)

_FOLLOW = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job.pop('path');"
    " from advreg.training.launch import follow; follow(**job)"
)


def placed(run: RunSettings) -> Team:
    """This process's place in its run: by torchrun's variables, or else the first.

    Raises:
        ConfigurationError: torchrun has started another number of processes, or there are too few
            GPUs.
    """
    if run.devices == 1 and run.strategy == "auto":
        return ALONE
    variables = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if None in variables:
        team, here = Team(size=run.devices), run.devices
    else:
        rank, size, local = (int(str(value)) for value in variables)
        if run.devices not in (1, size):
            raise ConfigurationError(
                f"devices is {run.devices} and torchrun has started {size} processes; give the same"
                " number to both, or leave devices out."
            )
        team, here = Team(rank, size, local), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    gpus = torch.cuda.device_count()
    if choose_device(run.device) == "cuda" and here > gpus:
        raise ConfigurationError(
            f"devices is {here} and this machine has {gpus} GPU{'s' * (gpus != 1)}; lower it, or"
            " set device to cpu."
        )
    return team


def with_team(configuration: Configuration, team: Team) -> Configuration:
    """The configuration with the number of devices that there are."""
    return replace(configuration, run=replace(configuration.run, devices=team.size))


@contextmanager
def joined(team: Team, configuration: Configuration, resume: bool) -> Iterator[None]:
    """The ranks together; those that torchrun has not started are started.

    Whatever ends one of them ends all, by one sentence of the first's.

    Raises:
        RunError: Another rank has ended.
        ConfigurationError: The program trains with several processes already.
    """
    if team.size == 1:
        yield
        return
    if distributed.is_initialized():
        raise ConfigurationError(
            "This program has a process group of its own; train with devices 1, or in another"
            " process."
        )
    workers: list[subprocess.Popen[str]] = []
    threads = torch.get_num_threads()
    store = None
    try:
        if "RANK" in os.environ:
            store = distributed.PrefixStore(f"run {next(_RUNS)}", _store_of_torchrun())
        else:
            store = _start(team, configuration, resume, workers)
        _join(team, store, workers)
        yield
    except BaseException as error:
        verdict = _verdict(team, store, error)
        if verdict is error:
            raise
        raise verdict from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        _end(workers)
        torch.set_num_threads(threads)


@cache
def _store_of_torchrun() -> Any:
    """Where the ranks meet; of torchrun's own, all are clients."""
    size = int(os.environ["WORLD_SIZE"])
    host = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return distributed.TCPStore(address, port, size, host, MEET, wait_for_workers=False)


_RUNS = count()


def _start(
    team: Team, configuration: Configuration, resume: bool, workers: list[subprocess.Popen[str]]
) -> Any:
    """Starts the other ranks on this machine, each in a process as torchrun would."""
    store = distributed.TCPStore(
        "127.0.0.1", 0, team.size, is_master=True, wait_for_workers=False, timeout=PATIENCE
    )
    run = configuration.run
    if run.threads is None and choose_device(run.device) == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // team.size))
    place = {
        "WORLD_SIZE": str(team.size),
        "LOCAL_WORLD_SIZE": str(team.size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    path = [os.path.abspath(one) for one in sys.path]
    job = {"path": path, "values": configuration.to_dict(), "resume": resume}
    for rank in range(1, team.size):
        worker = subprocess.Popen(
            [sys.executable, "-c", _FOLLOW],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the first rank, which passes it on
        )
        workers.append(worker)
        assert worker.stdin is not None
        with suppress(BrokenPipeError):
            json.dump(job, worker.stdin)
            worker.stdin.close()
    return distributed.PrefixStore("run 0", store)


def _join(team: Team, store: Any, workers: list[subprocess.Popen[str]]) -> None:
    store.add("ready", 1)
    while workers and store.add("ready", 0) < team.size:
        if any(worker.poll() is not None for worker in workers):
            raise LostRankError(ENDED)
        time.sleep(0.02)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend,
        store=distributed.PrefixStore("group", store),
        rank=team.rank,
        world_size=team.size,
        timeout=PATIENCE,
    )


def _verdict(team: Team, store: Any, error: BaseException) -> BaseException:
    """What a rank that cannot go on leaves with, once the others can know why.

    The first rank's is the run's sentence. The others end without a word, unless by a fault of the
    program itself, whose traceback is wanted.
    """
    lost = isinstance(error, LostRankError)
    said = ""
    with suppress(Exception):  # the store is the first rank's, which may be gone
        if lost:
            said = store.get("error").decode() if store.check(["error"]) else ""
        elif not isinstance(error, KeyboardInterrupt):
            store.set("error", str(error) or type(error).__name__)
    if team.first:
        return RunError(said or ENDED) if lost else error
    if isinstance(error, AdvregError):
        return SystemExit(2)
    return SystemExit(130) if isinstance(error, KeyboardInterrupt) else error


def _end(workers: list[subprocess.Popen[str]]) -> None:
    """Waits for the started processes, and ends those that stay."""
    deadline = time.monotonic() + (LEAVE if sys.exc_info()[0] is None else LEAVE / 4)
    for worker in workers:
        try:
            worker.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def follow(values: dict[str, Any], resume: bool) -> None:
    """What a started process does: the run's training, silently."""
    from advreg.training.loop import train

    try:
        train(Configuration.from_dict(values), resume=resume, quiet=True)
    except AdvregError as error:  # before it had joined the others
        distributed.PrefixStore("run 0", _store_of_torchrun()).set("error", str(error))
        raise SystemExit(2) from None
