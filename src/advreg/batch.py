"""A mini-batch and the view of the images that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advreg.errors import DataError


@dataclass(frozen=True)
class View:
    """Which window of its padded image each example shows, and whether it is mirrored.

    The frame of example i is its untouched image with `padding` pixels on every side; the view
    is the window of the image's own size whose corner is (`top[i]`, `left[i]`) in that frame,
    mirrored left to right where `flip[i]`.

    Attributes:
        top: (B,) int64, 0 to 2 * padding.
        left: (B,) int64, 0 to 2 * padding.
        flip: (B,) bool.
        padding: Pixels added on every side of the untouched image.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    padding: int

    def __len__(self) -> int:
        return len(self.top)

    def windows(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The frame's row and column behind each pixel of the view.

        Returns:
            (B, height) and (B, width) int64 indices into the frame.
        """
        device = self.top.device
        across = torch.arange(width, device=device).expand(len(self), width)
        across = torch.where(self.flip[:, None], width - 1 - across, across)
        return (
            self.top[:, None] + torch.arange(height, device=device),
            self.left[:, None] + across,
        )

    def apply(self, frames: Tensor) -> Tensor:
        """Cuts the views out of frames.

        Args:
            frames: (B, C, H + 2 * padding, W + 2 * padding), any type.

        Returns:
            (B, C, H, W), contiguous.
        """
        height = frames.shape[2] - 2 * self.padding
        width = frames.shape[3] - 2 * self.padding
        examples = torch.arange(len(self), device=frames.device)
        # Picking from a view of all windows copies whole rows, where an index a pixel would not.
        windows = frames.unfold(2, height, 1).unfold(3, width, 1)
        cut = windows[examples, :, self.top, self.left]
        return torch.where(self.flip[:, None, None, None], cut.flip(3), cut)

    def select(self, order: Tensor) -> View:
        """The views of the examples at `order`, (B',) int64."""
        return View(self.top[order], self.left[order], self.flip[order], self.padding)

    def to(self, device: torch.device | str) -> View:
        """The same view on another device."""
        return View(self.top.to(device), self.left.to(device), self.flip.to(device), self.padding)


@dataclass(frozen=True)
class LossyView:
    """Says that an augmentation made the inputs which cannot be undone, such as Cutout.

    What follows an example from epoch to epoch, as example memory does, refuses such a batch;
    all else takes it as any other.

    Attributes:
        name: The augmentation's.
        size: Number of examples.
    """

    name: str
    size: int

    def __len__(self) -> int:
        return self.size

    def select(self, order: Tensor) -> LossyView:
        """The same of the examples at `order`, (B',) int64."""
        return LossyView(self.name, len(order))

    def to(self, device: torch.device | str) -> LossyView:
        """The same: nothing is on a device."""
        return self


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        inputs: (B, ...) the network's input; images are (B, C, H, W) in [0, 1].
        targets: (B,) int64 classes, (B, K) class probabilities, or what else the task takes, see
            `advreg.losses`.
        indices: (B,) int64, each example's place in the training data; None where unknown.
        view: The crop and flip that made the inputs, or that they cannot be undone; None is the
            identity.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor | None = None
    view: View | LossyView | None = None

    def __post_init__(self) -> None:
        if isinstance(self.inputs, Mapping):
            raise DataError(
                f"A batch's inputs are a mapping ({', '.join(map(str, self.inputs))}); give the one"
                " tensor that is perturbed, or train by a framework's mixin, such as"
                " advreg.integrations.transformers.MethodMixin."
            )
        sizes = {
            len(part)
            for part in (self.inputs, self.targets, self.indices, self.view)
            if part is not None
        }
        if len(sizes) > 1:
            raise DataError(
                f"A batch's inputs, targets, indices and view have different sizes {sorted(sizes)};"
                " give one of each for every example."
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, order: Tensor) -> Batch:
        """The examples at `order`, (B',) int64, each with its index and view."""
        return Batch(
            self.inputs[order],
            self.targets[order],
            None if self.indices is None else self.indices[order],
            None if self.view is None else self.view.select(order),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.inputs.to(device),
            self.targets.to(device),
            None if self.indices is None else self.indices.to(device),
            None if self.view is None else self.view.to(device),
        )

    def with_inputs(self, inputs: Tensor) -> Batch:
        """The same examples with other inputs, such as attacked ones."""
        return replace(self, inputs=inputs)
