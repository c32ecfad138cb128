"""What the layers of one network show by LOTS: pairs of images, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advreg.attacks.lots import LotsResult, lots
from advreg.data import ImageData
from advreg.data.splits import generator, stratified_order
from advreg.errors import ConfigurationError, DataError, SiteError
from advreg.layerwise import default_sites, resolve_sites
from advreg.layerwise.inspection.describe import trace_sites
from advreg.losses import task_of
from advreg.modes import evaluating
from advreg.report.lots import LayerView, PairView, pair_figure
from advreg.units import Number, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 300
"""So many of 1/255 take a pixel from one end of the range to the other."""


class Until(NamedTuple):
    """When a layer shows its target.

    Attributes:
        share: The share of the first distance to come down to, if not None.
        until_class: Whether the network's taking it for the target's class counts.
    """

    share: float | None
    until_class: bool

    @classmethod
    def read(cls, text: Number) -> Until:
        """From "class", or a share of the first distance, such as 0.25 or "1/4".

        Raises:
            ConfigurationError: It is neither.
        """
        if text == "class":
            return cls(None, True)
        share = number(text, "until")
        if not 0 <= share < 1:
            raise ConfigurationError(
                f"until is {text!r}; give class, or a share of the first distance under 1."
            )
        return cls(share, False)

    def __str__(self) -> str:
        if self.until_class:
            return "the network takes it for the target's class"
        return f"the distance of the features is {self.share:g} of what it was"


def lots_figure(
    model: nn.Module,
    origin: Tensor,
    target: Tensor,
    layers: Iterable[str] | None = None,
    *,
    until: Number = "class",
    steps: int = STEPS,
    step_size: Number = 1 / 255,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draws how an image must change until each layer shows another one.

    A row a layer: origin, target, the moved image, its signed perturbation on one scale, the size
    of it over the grey image, steps, distance and the class that the network now gives; below,
    the distance over the steps. Needs matplotlib.

    Args:
        model: Maps images in [0, 1] to logits (B, K); it runs in evaluation mode.
        origin: (C, H, W) in [0, 1], the image to move.
        target: (C, H, W) in [0, 1], the image whose features to reach.
        layers: Globs over the names of modules, and "input"; None is the input, the stages and
            the blocks.
        until: "class" stops where the network takes the image for the target's class; a number
            at that share of the first distance.
        steps: The most steps.
        step_size: The most that a pixel moves in a step.
        names: The classes' names; None is their numbers.

    Raises:
        ConfigurationError: The images are no pair, lie outside [0, 1], or a setting cannot work.
        SiteError: There is no such layer, or it does not run.
    """
    if origin.ndim != 3 or origin.shape != target.shape:
        raise ConfigurationError(
            f"The origin is {tuple(origin.shape)} and the target {tuple(target.shape)}; give two"
            " images (C, H, W) of one shape."
        )
    found = layers_of(model, origin[None], layers)
    pairs = look(
        model, origin[None], target[None], found, until=Until.read(until), steps=steps,
        step_size=step_size, names=names,
    )  # fmt: skip
    return pair_figure(pairs[0])


def layers_of(model: nn.Module, images: Tensor, layers: Iterable[str] | None) -> list[str]:
    """The layers that globs choose, in the order of the forward pass, each tensor once.

    Raises:
        SiteError: There is no such layer, or a layer that is named does not run.
    """
    names = default_sites(model) if layers is None else resolve_sites(model, layers)
    tensors, aliases = trace_sites(model, names, images)
    idle = [name for name in names if name not in tensors and name not in aliases]
    if idle and layers is not None:
        raise SiteError(f"Layer {idle[0]!r} did not run; name one that the forward pass reaches.")
    return list(tensors)


def look(
    model: nn.Module,
    origins: Tensor,
    targets: Tensor,
    layers: Sequence[str],
    *,
    until: Until,
    steps: int = STEPS,
    step_size: Number = 1 / 255,
    classes: tuple[Tensor, Tensor] | None = None,
    names: Sequence[str] | None = None,
    called: Sequence[tuple[str, str]] | None = None,
    progress: Callable[[str], object] | None = None,
) -> list[PairView]:
    """Moves every origin for every layer.

    Args:
        model: As of `lots_figure`.
        origins: (B, C, H, W) in [0, 1].
        targets: (B, C, H, W) in [0, 1].
        layers: Layers' names.
        until: When an image stops.
        steps: As of `lots_figure`.
        step_size: As of `lots_figure`.
        classes: (B,) the true classes of origins and targets, where they are known.
        names: As of `lots_figure`.
        called: What origin and target of each pair are called.
        progress: Called with each layer once it is done.
    """
    with evaluating(model), torch.no_grad():
        found, seen = {}, {}
        for layer in layers:
            found[layer] = lots(
                model, origins, targets, layer, steps, step_size=step_size, **until._asdict()
            )
            seen[layer] = predicted(model, found[layer].images)
            if progress is not None:
                progress(layer)
        before = predicted(model, origins), predicted(model, targets)

    def name(place: Any) -> str:
        return str(int(place)) if names is None else names[int(place)]

    return [
        PairView(
            _image(origins[place]),
            _image(targets[place]),
            None if classes is None else (name(classes[0][place]), name(classes[1][place])),
            (name(before[0][place]), name(before[1][place])),
            ("origin", "target") if called is None else called[place],
            tuple(
                _layer_view(layer, found[layer], place, name(seen[layer][place]))
                for layer in layers
            ),
        )
        for place in range(len(origins))
    ]


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """(B,) the classes that the network gives."""
    outputs = model(images)
    return task_of(None, outputs).predictions(outputs).flatten()


def _layer_view(layer: str, found: LotsResult, place: int, seen_as: str) -> LayerView:
    steps = int(found.steps[place])
    return LayerView(
        layer,
        _image(found.images[place]),
        steps,
        bool(found.success[place]),
        tuple(found.curve[place, : steps + 1].tolist()),
        seen_as,
    )


def _image(image: Tensor) -> np.ndarray:
    return image.detach().float().cpu().permute(1, 2, 0).numpy()


def choose_pairs(
    model: nn.Module, data: ImageData, pairs: str, seed: int = 0, batch_size: int = 250
) -> tuple[Tensor, Tensor]:
    """Origins and targets of other classes among the test images.

    Args:
        model: On the CPU or a GPU, in evaluation mode.
        data: The test images.
        pairs: A number of pairs, drawn from the images that the network classifies rightly as
            far as there are two classes of them; or places, `ORIGIN:TARGET`, with commas between.
        seed: Decides what is drawn.
        batch_size: Images a pass.

    Returns:
        Places of the origins and of the targets, both (B,) int64.

    Raises:
        ConfigurationError: `pairs` is neither, or a place is none of the images'.
        DataError: The images are of one class.
    """
    if ":" in pairs:
        return _named_pairs(pairs, len(data))
    if not pairs.strip().isdecimal() or int(pairs) < 1:
        raise ConfigurationError(
            f"pairs is {pairs!r}; give a whole number from 1, or test images such as 12:40,7:33."
        )
    if len(data.targets.unique()) < 2:
        raise DataError(
            f"All test images are of the class {data.classes[int(data.targets[0])]!r}; a target"
            " must be of another class than its origin: give data with two classes or more."
        )
    order = stratified_order(data.targets, seed)[: 40 * int(pairs) + 400]
    right = order[rightly(model, data, order, batch_size)]
    if len(data.targets[right].unique()) < 2:
        right = order
    draws, kinds = generator(seed), data.targets[right]
    origins = right[torch.arange(int(pairs)) % len(right)]
    targets = []
    for origin in origins:
        others = right[kinds != data.targets[origin]]
        targets.append(others[torch.randint(len(others), (1,), generator=draws)])
    return origins, torch.cat(targets)


def _named_pairs(text: str, count: int) -> tuple[Tensor, Tensor]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [re.fullmatch(r"(\d+):(\d+)", part) for part in parts]
    places = [(int(one[1]), int(one[2])) if one else (count, count) for one in found]
    for part, pair in zip(parts, places, strict=True):
        if max(pair) >= count:
            raise ConfigurationError(
                f"pairs has {part!r}; write ORIGIN:TARGET, both test images from 0 to {count - 1}."
            )
    origins, targets = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return origins, targets


def rightly(model: nn.Module, data: ImageData, places: Tensor, batch_size: int) -> Tensor:
    """Which of the images at `places` the network classifies rightly."""
    with torch.no_grad():
        found = [
            predicted(model, images_at(model, data, part)).cpu() == data.targets[part]
            for part in places.split(batch_size)
        ]
    return torch.cat(found)


def images_at(model: nn.Module, data: ImageData, places: Tensor) -> Tensor:
    """(B, C, H, W) images in [0, 1] where the network is."""
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    return (data.images[places].float() / 255).to(device)
