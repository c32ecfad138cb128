"""The processes that train one run together, each on its share of every mini-batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from advreg.errors import RunError


class LostRankError(RunError):
    """Another process of the run has ended, so that this one cannot go on."""


class Team:
    """One process among those that train a run; alone, all of this does nothing.

    Gradients are averaged once an optimizer step and not in backward passes, so that the passes
    of attacks exchange nothing, accumulation exchanges once, and sums have one order: a resumed run
    is the same to the bit. All collectives are here, and all wait for every rank.

    Args:
        rank: This process's number.
        size: How many there are.
        local: This process's number on its machine, which is its GPU's.

    Raises:
        LostRankError: In a collective: a rank has ended.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank, self.size, self.local = rank, size, local

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Makes every gradient the mean of the ranks'; one that no rank has stays none."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has = torch.tensor([parameter.grad is not None for parameter in trained])
        parts = [_flat_gradient(parameter) for parameter in trained]
        sizes = [len(part) for part in parts]
        # A rank may have no gradient where another has one: it learns so from the last part.
        flat = torch.cat([*parts, has.to(parts[0])])
        with _together():
            distributed.all_reduce(flat)
        *means, found = flat.div_(self.size).split([*sizes, len(trained)])
        for number, (parameter, mean) in enumerate(zip(trained, means, strict=True)):
            if has[number] or found[number]:
                parameter.grad = mean.view_as(parameter).to(parameter.dtype)

    def lead(self, tensors: Iterable[Tensor]) -> None:
        """Gives every rank the first one's values, such as batch statistics."""
        if self.size == 1:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor)
        for alike in kinds.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            with _together():
                distributed.broadcast(flat, 0)
            parts = flat.split([tensor.numel() for tensor in alike])
            with torch.no_grad():
                for tensor, part in zip(alike, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def any(self, *flags: object) -> tuple[bool, ...]:
        """Whether each holds on any rank."""
        own = [bool(flag) for flag in flags]
        return tuple(bool(count) for count in self.total(*own))

    def total(self, *numbers: float) -> Sequence[float]:
        """The sum over the ranks of each number."""
        if self.size == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.float64)
        with _together():
            distributed.all_reduce(sums)
        return sums.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on the first; on the others their own."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.first else None
        with _together():
            distributed.gather_object(value, values)
        return [value] if values is None else values

    def share(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with _together():
            distributed.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]


ALONE = Team()


@contextmanager
def _together() -> Iterator[None]:
    """A collective, whose errors are those of the network: a rank is no longer there."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(str(error)) from error


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter).reshape(-1)
    return parameter.grad.to_dense().reshape(-1)


def seed_of_rank(seed: int, rank: int) -> int:
    """The seed of what a rank draws for itself; the first rank's is the run's own."""
    if rank == 0:
        return seed
    # The loader's epochs have keys of a single number.
    mixed = np.random.SeedSequence(seed, spawn_key=(rank, 0)).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))
