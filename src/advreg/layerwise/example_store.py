"""Tensors carried from visit to visit: a row for each training example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg._torch_compat import assert_async
from advreg.batch import LossyView, View
from advreg.errors import StateError
from advreg.layerwise.indices import as_indices, check_view, frame_of
from advreg.layerwise.store import First, Rows, Store


class ExampleStore(Store):
    """One row for each training example, in the frame of its untouched, padded image.

    The mini-batch's view is applied on reading and undone on writing; what lies outside the crop
    stays as it was. Another frame resets the store. In float16, rounding moves a value by at most
    0.05 % of itself, and 50,000 frames of 3 x 40 x 40 take 480 MB.

    Args:
        dtype: In which rows are kept; None is that of the first mini-batch.
        first: What new rows hold; None is zeros of `dtype`.
        moves: Whether rows move to another device; if not, that resets the store.
        renew: Visits after which an example's row begins again as if never seen; None keeps it.

    Attributes:
        expected: How many examples there are, beyond which an index is refused; None grows as they
            come.
        visits: (N,) int64, the writes to each row; an example twice in a mini-batch counts once.
    """

    def __init__(
        self,
        dtype: torch.dtype | None = None,
        *,
        first: First | None = None,
        moves: bool = True,
        renew: int | None = None,
    ) -> None:
        super().__init__(dtype, first=first, moves=moves)
        self.renew = renew
        self.expected: int | None = None
        self.visits: Tensor | None = None

    def reset(self) -> None:
        """Drops all rows, and counts it."""
        super().reset()
        self.visits = None

    def read(self, indices: Any, view: View | LossyView | None, fresh: Tensor) -> Tensor:
        """What the examples carry; those that carry nothing yet have that of `fresh`.

        Args:
            indices: (B,) integers, each example's number in the training data, from 0.
            view: The crop and flip that made the mini-batch; None is the identity.
            fresh: (B, ...), of the mini-batch's shape.

        Returns:
            (B, ...) in the type of `fresh`, copied.

        Raises:
            StateError: The indices do not say which examples the mini-batch holds.
            UnsupportedError: The view cannot be undone.
        """
        indices = self._reserve(indices, view, fresh)
        assert self.rows is not None
        assert self.visits is not None
        visits = self.visits[indices]
        begins = visits % self.renew == 0 if self.renew else visits == 0
        if self.renew:
            forgotten = indices[begins]
            blank = self._first(view, fresh, len(forgotten))
            self.rows.index_copy_(0, forgotten, _in_type_of(self.rows, blank))
        return torch.where(
            begins.view(-1, *[1] * (fresh.ndim - 1)),
            fresh,
            _dense(self._found(indices, view, fresh)).to(fresh),
        )

    def select(self, indices: Any, view: View | LossyView | None, like: Tensor) -> Rows:
        """The examples' rows as they are kept, copied: packed ones stay so without a view.

        Args and errors are those of `read`; `like` has the mini-batch's shape.
        """
        return self._found(self._reserve(indices, view, like), view, like)

    def write(self, indices: Any, view: View | LossyView | None, values: Rows) -> None:
        """Keeps the values (B, ...) of the examples that were read last, and counts the visit.

        Values are dropped where the store has taken another frame since.
        """
        if self.rows is None or not self._fits(values, view):
            return
        indices = torch.as_tensor(indices).to(self.rows.device, torch.int64)
        if isinstance(self.rows, Tensor):
            values = _dense(values).to(self.rows.dtype)
            if view is None:
                self.rows[indices] = values
            else:
                self.rows[_windows(indices, view, values)] = values.movedim(1, -1)
        else:
            numbers = indices
            if view is not None:
                # An example may be twice in a mini-batch, in two views.
                numbers, each = indices.unique(return_inverse=True)
                frames = self.rows.index_select(0, numbers).values()
                cut = _dense(values).to(frames.dtype)
                frames[_windows(each, view, cut)] = cut.movedim(1, -1)
                values = frames
            packed = self.rows.like(values) if isinstance(values, Tensor) else values
            self.rows.index_copy_(0, numbers, packed)
        assert self.visits is not None
        self.visits[indices] += 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers; as a module's, they may share memory with the live ones."""
        return {**super().state_dict(), "visits": self.visits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; nothing is shared with it."""
        super().load_state_dict(state)
        visits = state["visits"]
        self.visits = None if visits is None else visits.clone()

    def _found(self, indices: Tensor, view: Any, like: Tensor) -> Rows:
        assert self.rows is not None
        if view is None:
            return self.rows.index_select(0, indices)
        if isinstance(self.rows, Tensor):
            return self.rows[_windows(indices, view, like)].movedim(-1, 1)
        frames = self.rows.index_select(0, indices).values()
        each = torch.arange(len(frames), device=frames.device)
        return frames[_windows(each, view, like)].movedim(-1, 1)

    def _fits(self, like: Rows, view: Any) -> bool:
        assert self.rows is not None
        return tuple(self.rows.shape[1:]) == frame_of(like, view)

    def _first(self, view: Any, like: Tensor, count: int) -> Rows:
        """New rows in the frame and layout of a mini-batch."""
        inner = sorted(range(1, like.dim()), key=lambda dim: (-like.stride()[dim], dim))
        shape, order = (count, *frame_of(like, view)), (0, *inner)
        blank = like.detach().new_empty([shape[dim] for dim in order])
        return self.first(blank.permute(sorted(order, key=order.__getitem__)))

    def _reserve(self, indices: Any, view: Any, like: Tensor) -> Tensor:
        """Makes room for the examples of a mini-batch; returns their numbers on its device."""
        check_view(view, like)
        indices = as_indices(indices, len(like))
        if self.rows is not None and not self._fits(like, view):
            self.reset()
        self._reach(like.device)
        have = 0 if self.rows is None else self.rows.shape[0]
        need = self._need(indices)
        if self.rows is None or need > have:
            size = self.expected or max(need, 2 * have)
            try:
                more = self._first(view, like, size - have)
            except (RuntimeError, MemoryError):
                raise StateError(
                    f"There is no memory for the rows of {size:,} examples, as many as the indices"
                    f" {_span(indices)} ask for; give each example's number in the training data,"
                    " from 0 on."
                ) from None
            self.rows = more if self.rows is None else _joined(self.rows, more)
        visits = torch.zeros(0, dtype=torch.int64) if self.visits is None else self.visits
        self.visits = _grown(visits.to(like.device), self.rows.shape[0])
        return indices.to(like.device)

    def _need(self, indices: Tensor) -> int:
        """How many rows these examples take; a GPU is not waited for where that is known."""
        if self.expected is None:
            return int(indices.max()) + 1 if len(indices) else 0
        within = (indices < self.expected).all()
        if indices.is_cuda:
            assert_async(within, "An index is beyond the expected examples.")
        elif not within:
            raise StateError(
                f"There is an index {int(indices.max())} and examples is {self.expected}; give the"
                " number of all training examples, or leave examples out."
            )
        return self.expected


def _span(indices: Tensor) -> str:
    return f"from {int(indices.min()):,} to {int(indices.max()):,}"


def _windows(rows: Tensor, view: Any, like: Tensor) -> tuple[Any, ...]:
    """Where in frames (N, C, H', W') the views of rows lie, as (B, H, W, C)."""
    down, across = view.windows(*like.shape[-2:])
    down, across = down.to(rows.device), across.to(rows.device)
    return rows[:, None, None], slice(None), down[:, :, None], across[:, None, :]


def _dense(rows: Rows) -> Tensor:
    return rows if isinstance(rows, Tensor) else rows.values()


def _in_type_of(rows: Rows, other: Rows) -> Any:
    """Dense rows in another's type, for torch copies between like types alone."""
    return other.to(rows.dtype) if isinstance(other, Tensor) and isinstance(rows, Tensor) else other


def _joined(rows: Any, more: Any) -> Any:
    if not isinstance(rows, Tensor):
        return rows.joined(more)
    # With `out`, autocast leaves it alone: on the CPU it cannot join float16.
    return torch.cat([rows, _in_type_of(rows, more)], out=rows.new_empty(0))


def _grown(visits: Tensor, size: int) -> Tensor:
    if len(visits) == size:
        return visits
    return torch.cat([visits, visits.new_zeros(size - len(visits))])
