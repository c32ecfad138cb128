"""Two processes that train together, as torchrun would start them, without its second import."""

import multiprocessing
import os
import socket
import traceback

from torch import nn


def flat(num_classes):
    """A network without batch statistics, for 8x8 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def in_two(job, *given, seconds=900):
    """Runs `job(rank, *given)` in two processes; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_rank, args=(job, rank, port, *given), daemon=True)
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _rank(job, rank, port, *given):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    try:
        job(rank, *given)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
