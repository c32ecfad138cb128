"""Tensors carried from step to step, and a row of them for each position in the mini-batch.

The layerwise memories and the methods that carry perturbations keep them here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg.layerwise.packed import PackedWords

Rows = Tensor | PackedWords
First = Callable[[Tensor], Rows]
"""Makes rows of the shape, layout and device of a tensor, with what they hold at first."""


class Store:
    """What both stores have in common.

    Attributes:
        rows: What is carried; None before the first write, and after a reset.
        resets: How often rows of another shape, or on another device, took the place of these.
    """

    def __init__(
        self,
        dtype: torch.dtype | None = None,
        *,
        first: First | None = None,
        moves: bool = True,
    ) -> None:
        self.first = partial(torch.zeros_like, dtype=dtype) if first is None else first
        self.moves = moves
        self.rows: Any = None  # a Tensor or, of an `ExampleStore`, PackedWords
        self.resets = 0
        self._restored = False

    def reset(self) -> None:
        """Drops all rows, and counts it."""
        self.rows = None
        self.resets += 1

    def _reach(self, device: torch.device) -> None:
        """Brings the rows to a device, or drops them where they do not move.

        Those of a state do: where they will be needed is not known when they are loaded.
        """
        if self.rows is not None and self.rows.device != device:
            if self.moves or self._restored:
                self.rows = self.rows.to(device)
            else:
                self.reset()
        self._restored = False

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers; as a module's, they may share memory with the live ones."""
        rows = self.rows.state_dict() if isinstance(self.rows, PackedWords) else self.rows
        return {"rows": rows, "resets": self.resets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; nothing is shared with it."""
        rows = state["rows"]
        if isinstance(rows, dict):
            self.rows = PackedWords.from_state(rows)
        else:
            self.rows = None if rows is None else rows.clone()
        self.resets, self._restored = state["resets"], True


class SlotStore(Store):
    """One row for each position in the mini-batch.

    A smaller mini-batch has the first rows. Another shape of the rows resets the store.

    Args:
        dtype: In which rows are kept; None is that of what is written.
        first: What new rows hold; None is zeros of `dtype`.
        moves: Whether rows move to another device; if not, that resets the store.
        batch_dim: The dimension that counts positions.
        keeps: Whether what positions beyond a smaller mini-batch hold outlasts it.

    Attributes:
        count: How many positions hold something.
    """

    def __init__(
        self,
        dtype: torch.dtype | None = None,
        *,
        first: First | None = None,
        moves: bool = True,
        batch_dim: int = 0,
        keeps: bool = True,
    ) -> None:
        super().__init__(dtype, first=first, moves=moves)
        self.batch_dim, self.keeps = batch_dim, keeps
        self.count = 0

    def reset(self) -> None:
        """Drops all rows, and counts it."""
        super().reset()
        self.count = 0

    def read(self, fresh: Tensor) -> Tensor:
        """What the positions hold; what they do not hold yet is that of `fresh`, (B, ...).

        Returns:
            (B, ...) in the type of `fresh`, copied.
        """
        found, held = fresh.clone(), self.held(fresh)
        if held is not None:
            found.narrow(self.batch_dim, 0, held.shape[self.batch_dim]).copy_(held)
        return found

    def write(self, values: Tensor) -> None:
        """Keeps (B, ...), copied; what positions beyond hold stays as it is where it is kept."""
        values = values.detach()
        self.room(values).copy_(values)

    def held(self, like: Tensor) -> Tensor | None:
        """The rows of the first positions, as many as both have, sharing memory; None for none.

        Args:
            like: With the shape and device of the mini-batch's values.
        """
        self._follow(like)
        if self.rows is None:
            return None
        dim, rows = self.batch_dim, self.rows
        assert isinstance(rows, Tensor)
        return rows.narrow(dim, 0, min(self.count, like.shape[dim]))

    def room(self, like: Tensor) -> Tensor:
        """The rows of the mini-batch's positions, to be written to; they count as held.

        Args:
            like: With the shape, layout and device of the values.
        """
        self._follow(like)
        dim = self.batch_dim
        count = like.shape[dim]
        if self.rows is None or count > self.rows.shape[dim]:
            rows: Any = self.first(like)
            if self.rows is not None and self.keeps:
                rows.narrow(dim, 0, self.count).copy_(self.rows.narrow(dim, 0, self.count))
            self.rows = rows
        self.count = max(self.count, count) if self.keeps else count
        room: Tensor = self.rows.narrow(dim, 0, count)
        return room

    def fits(self, like: Tensor) -> bool:
        """Whether rows of this shape are carried, whatever their number."""
        if self.rows is None:
            return False
        mine, theirs, dim = tuple(self.rows.shape), tuple(like.shape), self.batch_dim
        return mine == theirs or (mine[:dim], mine[dim + 1 :]) == (theirs[:dim], theirs[dim + 1 :])

    def _follow(self, like: Tensor) -> None:
        if self.rows is not None and not self.fits(like):
            self.reset()
        self._reach(like.device)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers; as a module's, they may share memory with the live ones."""
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; nothing is shared with it."""
        super().load_state_dict(state)
        self.count = state["count"]
