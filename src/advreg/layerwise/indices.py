"""Which examples a mini-batch holds, and in what frame what they carry is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advreg._torch_compat import assert_async
from advreg.batch import View
from advreg.errors import StateError, UnsupportedError
from advreg.layerwise.store import Rows


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
