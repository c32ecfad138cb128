"""A state a rank: frameworks save the first rank's objects alone, and load them on every rank."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, distributed

from advreg.errors import MemoryResetWarning, StateError

RANKS = "ranks"


def rank_and_size() -> tuple[int, int]:
    """This process's number among the data-parallel ones, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gather_states(state: Mapping[str, Any]) -> dict[str, Any]:
    """The states of all ranks, on the first of them, which saves; on the others their own.

    Every rank must call it, as every rank calls what saves a checkpoint.

    Args:
        state: This rank's: tensors, plain numbers and names.
    """
    rank, size = rank_and_size()
    if size == 1:
        return {RANKS: [state]}
    # A tensor on a GPU would come out on the same GPU, of which this process may have none.
    mine, states = on_the_cpu(state), [None] * size
    distributed.gather_object(mine, states if rank == 0 else None)
    return {RANKS: states if rank == 0 else [mine]}


def state_of_rank(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """This rank's part of what `gather_states` returned.

    Where a run goes on with another number of ranks, a rank's mini-batches are other ones, so that
    nothing that was kept of them serves; an adversary keeps its counters, such as the warm-up's.

    Returns:
        What `load_state_dict` takes; None where nothing serves.

    Raises:
        StateError: It is another object's state.

    Warns:
        MemoryResetWarning: The number of ranks has changed.
    """
    states = saved.get(RANKS) if isinstance(saved, Mapping) else None
    if not states or not all(isinstance(one, Mapping) for one in states):
        raise StateError(
            "The checkpoint's state is not that of an adversary or a method on each rank; load one"
            " that was saved with the same callback or object."
        )
    rank, size = rank_and_size()
    if len(states) == size:
        return dict(states[rank])
    warnings.warn(
        f"The checkpoint holds the memories of {len(states)} ranks and this run has {size}: they"
        " begin empty; go on with as many ranks for the same run.",
        MemoryResetWarning,
        stacklevel=3,
    )
    first = states[0]
    return {**first, "sites": {}} if "sites" in first else None


def on_the_cpu(value: Any) -> Any:
    """Nested mappings and sequences with their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: on_the_cpu(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_the_cpu(part) for part in value)
    return value
