"""Tensors carried from step to step: a row for each position in the mini-batch, or each example.

Rows are a dense tensor of any type, or signs packed to two bits a value (`PackedWords`). The
layerwise memories and the methods that carry perturbations keep them here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg._torch_compat import assert_async
from advreg.batch import LossyView, View
from advreg.errors import StateError, UnsupportedError
from advreg.layerwise.packed import PackedWords

Rows = Tensor | PackedWords
First = Callable[[Tensor], Rows]
"""Makes rows of the shape, layout and device of a tensor, with what they hold at first."""


class _Store:
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


class SlotStore(_Store):
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


class ExampleStore(_Store):
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


def as_indices(indices: Any, count: int | None = None) -> Tensor:
    """Each example's number in the training data, (B,) int64.

    Args:
        indices: A tensor or a sequence of integers.
        count: How many examples the mini-batch has, where that is known.

    Raises:
        StateError: They are missing, not integers, negative, or of another number. Of a GPU's,
            for which this does not wait, negative ones stop a later operation.
    """
    if indices is None:
        raise StateError(
            "What is carried by example needs to know the examples; give each batch its indices."
        )
    try:
        numbers = torch.as_tensor(indices)
    except (TypeError, ValueError, RuntimeError):
        raise StateError(
            f"The indices are {indices!r}; give each example's number in the training data,"
            " integers of shape (B,)."
        ) from None
    if not numbers.numel():
        numbers = numbers.to(torch.int64)
    if numbers.dim() != 1 or numbers.is_floating_point() or numbers.is_complex():
        raise StateError(
            f"The indices are {numbers.dtype} of shape {tuple(numbers.shape)}; give each example's"
            " number in the training data, integers of shape (B,)."
        )
    if numbers.dtype == torch.bool:
        raise StateError("The indices are a mask; give each example's number in the training data.")
    if count is not None and len(numbers) != count:
        raise StateError(
            f"There are {len(numbers)} indices for {count} examples; give one for each example of"
            " the mini-batch."
        )
    if numbers.is_cuda:
        assert_async((numbers >= 0).all(), "An index of an example is negative.")
    elif len(numbers) and int(numbers.min()) < 0:
        raise StateError(
            f"There is an index {int(numbers.min())}; give each example's number in the training"
            " data, from 0."
        )
    return numbers.to(torch.int64)


def check_view(view: Any, like: Rows) -> None:
    """Refuses a view that cannot be undone.

    Raises:
        UnsupportedError: It is no `advreg.View`, or not one of images (B, C, H, W).
    """
    if view is None:
        return
    if not isinstance(view, View):
        raise UnsupportedError(
            f"What {getattr(view, 'name', type(view).__name__)} made cannot be undone,"
            " so that nothing can be carried by example; describe crops and flips by advreg.View,"
            " or use what is carried by position, such as memory='slot'."
        )
    if len(like.shape) != 4:
        raise UnsupportedError(
            f"A view needs inputs of shape (B, C, H, W), not {tuple(like.shape)}; leave it out."
        )


def frame_of(like: Rows, view: Any) -> tuple[int, ...]:
    """The shape of an example's row.

    Raises:
        UnsupportedError: See `check_view`.
    """
    check_view(view, like)
    frame = list(like.shape[1:])
    if view is not None:
        frame[-2:] = [size + 2 * view.padding for size in frame[-2:]]
    return tuple(frame)


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
