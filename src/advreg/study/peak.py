"""The peak of the memory that training takes, counted rather than sampled."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from advreg._torch_compat import AllocationEvent
from advreg.layerwise.kernels import buffers
from advreg.study.cost import Step, torch_threads

Build = Callable[[ExitStack], Step]
"""Makes a training step of a fresh network; what must be undone afterwards goes on the stack."""

LAST_STEP = "advreg: last step"


def peak_bytes(build: Build, device: torch.device | str = "cpu", steps: int = 3) -> int:
    """The most bytes that are alive at once in a training step.

    All that torch allocates from `build` on is counted: weights, gradients, the optimizer's
    state, memories of a method, activations and the operations' own workspace. On a CPU every
    allocation and release is followed, on one thread, so that the figure is the same each time;
    on a GPU torch counts in its own blocks.

    Args:
        build: Makes the step.
        device: Where the network is.
        steps: How many to make; the last one's peak is returned, when all memories are filled.
    """
    gc.collect()  # what an earlier network left in cycles is not to be released meanwhile
    count = _peak_on_gpu if torch.device(device).type == "cuda" else _peak_on_cpu
    with torch_threads(1):
        return count(build, device, steps)


def _peak_on_gpu(build: Build, device: torch.device | str, steps: int) -> int:
    before = torch.cuda.memory_allocated(device)
    with ExitStack() as stack:
        step = build(stack)
        for _ in range(steps - 1):
            step()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(build: Build, device: torch.device | str, steps: int) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else it reports each start and stop
    with (
        ExitStack() as stack,
        buffers.followed() as blocks,  # which torch's own counts do not have
        profile(
            activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False
        ) as profiler,
    ):
        step = build(stack)
        for _ in range(steps - 1):
            step()
        with record_function(LAST_STEP):
            step()
    events, since = [Allocation(*block) for block in blocks], 0
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == AllocationEvent:
            fields = event.extra_fields
            events.append(Allocation(event.start_time_ns, fields.ptr, fields.alloc_size))
        elif event.name == LAST_STEP:
            since = event.start_time_ns
    return peak_of(events, since)


@dataclass(frozen=True, order=True)
class Allocation:
    """A block of memory taken, or given back where `size` is below zero.

    Attributes:
        time: In nanoseconds.
        address: Of the block.
        size: In bytes.
    """

    time: int
    address: int
    size: int


def peak_of(events: Iterable[Allocation], since: int) -> int:
    """The most bytes alive at once from a time on.

    Args:
        events: In any order.
        since: The time, in nanoseconds.
    """
    alive: dict[int, int] = {}
    total = peak = 0
    for event in sorted(events):
        # A release carries the size that was taken; one of a block from before is none of ours.
        total += event.size if event.size > 0 else -alive.pop(event.address, 0)
        if event.size > 0:
            alive[event.address] = event.size
        if event.time >= since:
            peak = max(peak, total)
    return peak
