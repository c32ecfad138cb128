"""What the ranks of a run have saved, divided among more or fewer of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch

from advreg.layerwise.example_store import ExampleStore
from advreg.layerwise.packed import PackedWords


def redistributed(
    parts: Sequence[Mapping[str, Any]], rank: int, size: int, steps: int, examples: int | None
) -> dict[str, Any]:
    """What falls to one of `size` ranks.

    Rows of examples go with their examples: that of number i is row i // n of rank i % n, of n
    ranks. What a position in the mini-batch remembers begins empty. A rank that there was not has
    random numbers of its own, and none of the sums of the epoch in progress.

    Args:
        parts: The state of each rank that there was.
        rank: The one that there is now.
        size: How many there are now.
        steps: Of an epoch, now.
        examples: The number of training examples; None where they do not stay with a rank.

    Returns:
        As one of the parts; `random` is None where there is none to go on with.
    """
    first = parts[0]
    tally = {**first["tally"], "step": min(first["tally"]["step"], steps)}
    for name in ("loss", "correct", "examples"):
        total = sum(part["tally"][name] for part in parts)
        tally[name] = total if rank == 0 else type(total)()
    return {
        **first,
        "method": _moved([part["method"] for part in parts], rank, size, examples),
        "tally": tally,
        "random": parts[rank]["random"] if rank < len(parts) else None,
    }


def _moved(parts: Sequence[Any], rank: int, size: int, examples: int | None) -> Any:
    """The same of any part of a method's state."""
    first = parts[0]
    if isinstance(first, list):
        return [_moved(alike, rank, size, examples) for alike in zip(*parts, strict=True)]
    if not isinstance(first, Mapping):
        return first
    if {"rows", "visits"} <= first.keys():
        return _rows_of_rank(parts, rank, size, examples)
    if "count" in first and first.keys() & {"rows", "words"}:  # by position
        return {**first, **dict.fromkeys(first.keys() & {"rows", "words"}), "count": 0}
    moved = {}
    for name, value in first.items():
        if name == "generators":
            moved[name] = parts[rank][name] if rank < len(parts) else {}
        else:
            alike = [part.get(name, value) for part in parts]
            moved[name] = _moved(alike, rank, size, examples)
    return moved


def _rows_of_rank(
    parts: Sequence[Mapping[str, Any]], rank: int, size: int, examples: int | None
) -> dict[str, Any]:
    stores = [ExampleStore() for _ in parts]
    for store, part in zip(stores, parts, strict=True):
        store.load_state_dict(dict(part))
    if examples is None or any(store.rows is None for store in stores):
        return {**parts[0], "rows": None, "visits": None}
    visits = [store.visits for store in stores if store.visits is not None]
    begins = torch.tensor([0, *map(len, visits[:-1])]).cumsum(0)
    numbers = torch.arange(rank, examples, size)
    places = begins[numbers % len(parts)] + numbers // len(parts)
    merged = ExampleStore()
    merged.rows = reduce(_joined, [store.rows for store in stores]).index_select(0, places)
    merged.visits = torch.cat(visits).index_select(0, places)
    return {**merged.state_dict(), "resets": parts[0]["resets"]}


def _joined(rows: Any, more: Any) -> Any:
    return rows.joined(more) if isinstance(rows, PackedWords) else torch.cat([rows, more])
