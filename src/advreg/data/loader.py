"""Batches of augmented images, cut as whole tensors on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.batch import Batch, LossyView, View
from advreg.data.augment import AUGMENTATIONS, POLICIES, WINDOWS, Distortion
from advreg.data.blocks import in_blocks
from advreg.data.images import ImageData
from advreg.data.mapped import is_mapped, release
from advreg.data.splits import generator
from advreg.errors import ConfigurationError
from advreg.units import at_least_one


class Loader:
    """Yields the batches of any epoch from any step on.

    Order and augmentation are a function of seed and epoch alone: there is no hidden state, so
    training resumes from the number of the epoch and of the step. All images are moved to the
    device once, as bytes; those that do not fit into memory batch by batch.

    Args:
        data: What to draw from.
        batch_size: Examples a batch, over all ranks together.
        augment: One of `AUGMENTATIONS`, such as "crop_flip+cutout"; None is "none". Cutout's
            square is half the image's height, 16 for 32x32, and shows the data's mean.
        padding: Black pixels around an image before it is cropped; an eighth of its height by
            default, 4 for 32x32.
        crop_step: Pixels from one place of the crop to the next, from the middle on: 4 with a
            padding of 4 leaves three places down and three across.
        view_epochs: Epochs that an image keeps its crop and flip for, before others are drawn.
        view_block: Batches from one visit of an image to its next one with the same crop and flip.
            The batches of an epoch go in blocks of so many, and each block comes `view_epochs`
            times in a row, as it was, over as many epochs. None is one visit an epoch, each epoch
            in an order of its own.
        shuffle: Whether each epoch has an order of its own.
        seed: Of order and augmentation.
        drop_last: Whether a last, smaller batch is left out.
        device: Where the batches are made.
        rank: Which part of each batch to yield, where several processes share it.
        world_size: Number of such processes. More than one share each batch equally, and the
            examples of the last batch that cannot be shared so are left out.
        by_example: Whether an example is the same rank's in every epoch: that of number i is rank
            i % world_size's, for which it has the index i // world_size.

    Raises:
        ConfigurationError: A setting cannot work.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        *,
        augment: str | None = None,
        padding: int | None = None,
        crop_step: int = 1,
        view_epochs: int = 1,
        view_block: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        by_example: bool = False,
    ) -> None:
        augment = augment or "none"
        if augment not in AUGMENTATIONS:
            raise ConfigurationError(
                f"There is no augmentation {augment!r}; choose one of {', '.join(WINDOWS)}, then"
                f" one of {', '.join(POLICIES)}, then cutout, with a plus between them and each"
                " left out at will."
            )
        parts = augment.split("+")
        padding = data.shape[1] // 8 if padding is None else padding
        if padding < 0:
            raise ConfigurationError(f"padding is {padding}; give a number of at least 0.")
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ConfigurationError(
                f"batch_size is {batch_size}, rank {rank} of {world_size}; give a positive multiple"
                " of the number of ranks, counted from 0."
            )
        self._check_views(crop_step, view_epochs, view_block, parts[0] in WINDOWS[1:], padding)
        generator(seed)  # refuses a seed that is none
        self.data = data
        self.batch_size = batch_size
        self.augment = augment
        self.padding = padding if parts[0] in WINDOWS[1:] else 0
        self.crop_step = crop_step
        self.view_epochs = view_epochs
        self.view_block = view_block
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.by_example = by_example and world_size > 1
        full, rest = divmod(len(data), batch_size)
        self._steps = full + (rest >= world_size and not drop_last)
        if not self._steps:
            raise ConfigurationError(
                f"{len(data)} images make no batch of {batch_size}; give a smaller batch_size."
            )
        self._flips = parts[0] == "crop_flip"
        names = [part for part in parts if part not in WINDOWS]
        mean = torch.tensor(data.statistics()[0] if names else ()).to(device)
        self._distortion = Distortion(names, data.shape, mean) if names else None
        self._targets = data.targets.to(device)
        mapped = is_mapped(data.images)
        self._frames = None if mapped else F.pad(data.images, (self.padding,) * 4).to(device)
        self._gathered = data.images.new_empty(0)

    @staticmethod
    def _check_views(
        crop_step: int, view_epochs: int, view_block: int | None, crops: bool, padding: int
    ) -> None:
        """Refuses settings that would change nothing, or leave no crop."""
        at_least_one(crop_step=crop_step, view_epochs=view_epochs)
        if view_block is not None:
            at_least_one(view_block=view_block)
            if view_epochs == 1:
                raise ConfigurationError(
                    f"view_block is {view_block} and view_epochs 1, so that no block would come"
                    " again; set view_epochs to 2 or more, or leave view_block out."
                )
        if not crops and (crop_step > 1 or (view_epochs > 1 and view_block is None)):
            raise ConfigurationError(
                f"crop_step is {crop_step} and view_epochs {view_epochs} where nothing is cropped;"
                " set augment to crop or crop_flip, or leave them out."
            )
        if crop_step > max(padding, 1):
            raise ConfigurationError(
                f"crop_step is {crop_step} and padding {padding}, so that every crop would be the"
                " untouched image; give a crop_step of at most the padding."
            )

    def __len__(self) -> int:
        return self._steps

    @property
    def examples(self) -> int:
        """Under what number the batches' indices are."""
        return -(-len(self.data) // self.world_size) if self.by_example else len(self.data)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch.

        Args:
            epoch: Its number, from 0.
            start: The first step to yield, 0 to len(self).

        Returns:
            Batches with float32 inputs in [0, 1], targets, indices into the data and, where there
            is augmentation, the view; all on the device. Where the augmentation has more than a
            crop and a flip, the view is a `LossyView`.

        Raises:
            ConfigurationError: `start` is not a step of the epoch.
        """
        if not 0 <= start <= len(self):
            raise ConfigurationError(
                f"start is {start} and the epoch has {len(self)} steps; give a number from 0 to"
                f" {len(self)}."
            )
        return self._batches(epoch, self._numbers(epoch)[start:])

    def drawn_in(self, epoch: int) -> int:
        """The epoch in which an epoch's batches were drawn; an earlier one where blocks come."""
        return epoch - epoch % self.view_epochs if self.view_block else epoch

    def each_once(self, epoch: int) -> Iterator[Batch]:
        """As `epoch`, but every batch once: without blocks that is the epoch itself."""
        return self._batches(epoch, range(len(self)))

    def _batches(self, epoch: int, numbers: Sequence[int]) -> Iterator[Batch]:
        device = self._targets.device
        since = epoch % self.view_epochs
        random = epoch_generator(self.seed, self.drawn_in(epoch))
        count = len(self.data)
        order, corners, flips = self._order_and_views(random)
        if since and not self.view_block:  # each image has the view of an earlier epoch
            earlier = epoch_generator(self.seed, epoch - since)
            places, corners, flips = self._order_and_views(earlier)
            places = places.argsort()[order]
            corners, flips = corners[:, places], flips[places]
        # Drawn for the whole epoch at once: one copy to the device, and any step can be first.
        corners, flips = corners.to(device), flips.to(device)
        drawn = (None, None) if self._distortion is None else self._distortion.draw(count, random)
        own = (order % self.world_size == self.rank).nonzero().flatten()
        order = order.to(device)
        for number in numbers:
            part: Any = self._part(number)
            if self.by_example:
                part = own[part]
            indices = order[part]
            view = View(corners[0, part], corners[1, part], flips[part], self.padding)
            pixels = self._padded(indices)
            if self.augment != "none":
                pixels = view.apply(pixels)
            targets = self._targets.index_select(0, indices)
            if self.by_example:
                indices = indices // self.world_size
            if self._distortion is None:
                shown = None if self.augment == "none" else view
                yield Batch(pixels / 255, targets, indices, shown)
            else:
                inputs = self._distortion.apply(pixels, drawn, part)
                yield Batch(inputs, targets, indices, LossyView(self.augment, len(indices)))

    def _numbers(self, epoch: int) -> Sequence[int]:
        """Which batch each step of an epoch takes."""
        numbers = range(len(self))
        if not self.view_block:
            return numbers
        every = list(in_blocks(numbers, self.view_block, self.view_epochs))
        return every[epoch % self.view_epochs * len(self) :][: len(self)]

    def _order_and_views(self, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What an epoch draws: its order (N,) and, in it, corners (2, N) and flips (N,)."""
        count = len(self.data)
        order = torch.randperm(count, generator=random) if self.shuffle else torch.arange(count)
        most = self.padding // self.crop_step  # steps away from the middle
        steps = torch.randint(2 * most + 1, (2, count), generator=random) - most
        corners = self.padding + self.crop_step * steps
        flips = torch.rand(count, generator=random) < 0.5
        return order, corners, flips & self._flips

    def _padded(self, indices: Tensor) -> Tensor:
        if self._frames is not None:
            return self._frames.index_select(0, indices)  # twenty times faster than [indices]
        images = self.data.images
        # Into the same memory each time: an allocator may keep several blocks of such a size.
        room = self._gathered.resize_(len(indices), *images.shape[1:])
        pixels = torch.index_select(images, 0, indices.cpu(), out=room).to(indices.device)
        release(images)
        return F.pad(pixels, (self.padding,) * 4) if self.padding else pixels

    def _part(self, number: int) -> slice:
        """Where a batch's examples are in the epoch's order, or among this rank's own."""
        begin = number * self.batch_size
        share = min(self.batch_size, len(self.data) - begin) // self.world_size
        begin = begin // self.world_size if self.by_example else begin + self.rank * share
        return slice(begin, begin + share)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A random state for one epoch, unlike that of any other seed and epoch."""
    mixed = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1, np.uint64)
    return generator(int(mixed[0] >> np.uint64(1)))
