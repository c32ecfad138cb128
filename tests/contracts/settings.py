"""The one table of tiny settings that drives the contract tests, and the network they train."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from advreg import Batch, LayerwiseAdversary, View
from advreg.methods import (
    ATTA,
    AWP,
    FGSM,
    FGSMPGI,
    GAT,
    LOTS,
    MART,
    NFGSM,
    PGD,
    RSFGSM,
    SAM,
    SLAT,
    TDAT,
    TRADES,
    VAT,
    CutMix,
    DataGrad,
    Dropout,
    Free,
    GradAlign,
    InputGradient,
    LabelSmoothing,
    Layerwise,
    Method,
    Mixup,
    NuAT,
    PreviousFGSM,
    Standard,
    build_method,
)

SITES = ["input", "stage", "stage.0", "stage.1"]
EXAMPLES = 24


class Block(nn.Module):
    """A residual block, small enough for a thousand steps a test run."""

    def __init__(self, width=4, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, activation):
        return self.relu(activation + self.norm(self.conv(activation)))


class TinyNet(nn.Module):
    """A stem, a stage of two blocks (one tensor with the last of them) and a head."""

    def __init__(self, norm=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage = nn.Sequential(Block(norm=norm), Block(norm=norm))
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.stage(self.stem(images)).mean((2, 3)))


def tiny(norm=True, seed=0, dtype=torch.float32):
    """The tiny network in training mode, the same weights each time."""
    torch.manual_seed(seed)
    return TinyNet(norm).to(dtype)


def batches(steps, size=8, views=False, seed=1, dtype=torch.float32) -> Iterator[Batch]:
    """Mini-batches of 6x6 images out of `EXAMPLES`, cropped and flipped where `views`."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(EXAMPLES, 3, 6, 6, generator=generator, dtype=dtype)
    targets = torch.randint(0, 3, (EXAMPLES,), generator=generator)
    for _ in range(steps):
        indices = torch.randperm(EXAMPLES, generator=generator)[:size]
        inputs, view = images[indices], None
        if views:
            corners = torch.randint(0, 3, (2, size), generator=generator)
            flip = torch.rand(size, generator=generator) < 0.5
            view = View(corners[0], corners[1], flip, 1)
            inputs = view.apply(F.pad(inputs, (1, 1, 1, 1)))
        yield Batch(inputs, targets[indices], indices, view)


@dataclass(frozen=True)
class Setting:
    """A method with tiny settings, and what its mini-batches need.

    Attributes:
        forwards: Forward calls a step, where they are not the method's `passes`.
        backwards: Times that a gradient comes through the head in a step, where not `passes`.
    """

    build: Callable[..., Method]
    arguments: dict = field(default_factory=dict)
    views: bool = False
    forwards: int | None = None
    backwards: int | None = None

    def method(self):
        return self.build(**self.arguments)

    def adversary(self):
        assert self.build is Layerwise
        return LayerwiseAdversary(**self.arguments)

    def batches(self, steps, **options):
        return batches(steps, views=self.views, **options)


ADVERSARIES = {
    "slot": Setting(Layerwise, {"epsilon": 0.1}),
    "slot-input": Setting(Layerwise, {"epsilon": "8/255", "sites": ["input"]}),
    "slot-clamped": Setting(
        Layerwise, {"epsilon": 0.2, "sites": ["input"], "input_range": (0.0, 1.0)}
    ),
    "slot-hidden": Setting(Layerwise, {"epsilon": 0.1, "sites": ["stage.*"]}),
    "slot-absolute": Setting(Layerwise, {"epsilon": 0.1, "sites": ["stem"], "relative": False}),
    "slot-l2": Setting(Layerwise, {"epsilon": 0.1, "direction": "l2"}),
    "slot-max": Setting(Layerwise, {"epsilon": 0.1, "direction": "max", "rms_interval": 3}),
    "slot-random-start": Setting(Layerwise, {"epsilon": 0.1, "start": "random"}),
    "slot-accumulating": Setting(
        Layerwise, {"epsilon": 0.1, "step_size": 0.04, "budget_split": "root"}
    ),
    "random": Setting(Layerwise, {"epsilon": 0.1, "direction": "random"}),
    "example": Setting(Layerwise, {"epsilon": 0.1, "memory": "example"}, views=True),
    "example-accumulating": Setting(
        Layerwise,
        {"epsilon": 0.1, "memory": "example", "step_size": 0.125, "start": "random"},
        views=True,
    ),
    "example-hidden": Setting(
        Layerwise, {"epsilon": 0.1, "memory": "example", "sites": ["input", "stage.*"]}
    ),
}
"""Settings of the layerwise method that the adversary alone takes too."""

MEMORIES = (
    "slot", "slot-l2", "slot-accumulating", "example", "example-accumulating", "random",
)  # fmt: skip
"""Of the adversaries, one for each way to keep a memory: by position packed, dense and in levels,
by example packed and in levels, and none. The others differ in budgets, ranges and sites."""

SETTINGS = {
    "standard": Setting(Standard),
    "dropout": Setting(Dropout, {"p": 0.3}),
    "dropout-sites": Setting(Dropout, {"p": 0.3, "sites": ["stage.*"]}),
    "fgsm": Setting(FGSM, {"epsilon": 0.1}),
    "rs-fgsm": Setting(RSFGSM, {"epsilon": 0.1}),
    "n-fgsm": Setting(NFGSM, {"epsilon": 0.1}),
    "pgd": Setting(PGD, {"epsilon": 0.1, "steps": 2}),
    "pgd-l2": Setting(PGD, {"epsilon": 0.5, "steps": 2, "norm": "l2"}),
    "free": Setting(Free, {"epsilon": 0.1, "replays": 2}),
    "free-example": Setting(Free, {"epsilon": 0.1, "replays": 2, "memory": "example"}, views=True),
    # The forward pass that gives the clean answer, without a gradient, is no pass.
    "trades": Setting(TRADES, {"epsilon": 0.1, "steps": 2}, forwards=5),
    "vat": Setting(VAT, {"epsilon": 0.5}),
    "previous-batch": Setting(PreviousFGSM, {"epsilon": 0.1, "start": "batch"}),
    "previous-epoch": Setting(PreviousFGSM, {"epsilon": 0.1, "start": "epoch"}, views=True),
    "atta": Setting(ATTA, {"epsilon": 0.1, "reset": 2}, views=True),
    # The first pass's graph serves the attack's step and, with the second's, training.
    "fgsm-pgi": Setting(FGSMPGI, {"epsilon": 0.1, "reset": 2}, views=True, forwards=2),
    "fgsm-pgi-plain": Setting(
        FGSMPGI, {"epsilon": 0.1, "momentum": 0, "true_share": 1.0}, views=True, forwards=2
    ),
    "tdat": Setting(TDAT, {"epsilon": 0.1}, forwards=2),
    # The clean answer that an attack is compared with, in every mini-batch or every other one.
    "gat": Setting(GAT, {"epsilon": 0.1, "alternate": False}, forwards=4),
    "nuat": Setting(NuAT, {"epsilon": 0.1}, forwards=10 / 3),
    "gradalign": Setting(GradAlign, {"epsilon": 0.1}, forwards=3),
    "mart": Setting(MART, {"epsilon": 0.1, "steps": 2}),
    "slat": Setting(SLAT, {"sites": ["stage.*"]}),
    "datagrad": Setting(DataGrad),
    # Double backpropagation: the second pass goes back through the first one's backward pass.
    "datagrad-exact": Setting(DataGrad, {"exact": True}, forwards=1),
    "datagrad-l2": Setting(DataGrad, {"norm": "l2", "sites": ["input", "stage"]}),
    "input-gradient": Setting(InputGradient, forwards=1),
    "input-gradient-uniform": Setting(InputGradient, {"uniform": True}, forwards=1),
    # Its steps go back from the layer, which is before the head.
    "lots": Setting(LOTS, {"layer": "stage", "steps": 2}, backwards=2),
    "sam": Setting(SAM),
    "awp": Setting(AWP),
    "mixup": Setting(Mixup),
    "cutmix": Setting(CutMix, {"probability": 0.6}),
    "label-smoothing": Setting(LabelSmoothing),
    "layerwise-paired": Setting(Layerwise, {"epsilon": 0.1, "pair": True}),
    "layerwise-exchanged": Setting(Layerwise, {"epsilon": 0.1, "exchange": "class"}),
    "layerwise-warm": Setting(
        Layerwise, {"epsilon": 0.1, "warmup_epochs": 1.0, "budget_split": "sum"}
    ),
    # The tiny network's losses are about 1.1: at first above the floor, then below.
    "layerwise-auto": Setting(Layerwise, {"epsilon": "auto", "loss_floor": 1.1}),
    **{f"layerwise-{name}": setting for name, setting in ADVERSARIES.items()},
    "composed-mixup": Setting(partial(build_method, "layerwise+mixup")),
    "composed-sam": Setting(
        partial(build_method, "layerwise+sam"),
        {"layerwise": {"epsilon": 0.1, "memory": "example"}},
        views=True,
    ),
    "composed-pgd": Setting(
        partial(build_method, "layerwise+pgd"), {"pgd": {"epsilon": 0.1, "steps": 2}}
    ),
    "composed-awp": Setting(
        partial(build_method, "layerwise+awp"), {"layerwise": {"epsilon": 0.1}}
    ),
    "composed-awp-trades": Setting(
        partial(build_method, "trades+awp"), {"trades": {"epsilon": 0.1, "steps": 2}}, forwards=7
    ),
}
"""Every method, by the id of its tests."""

METHODS = {
    name: setting
    for name, setting in SETTINGS.items()
    if name.removeprefix("layerwise-") not in ADVERSARIES.keys() - {"slot", "example"}
}
"""Without what only the adversary distinguishes, which has contracts of its own."""

STEPS = (
    "standard", "dropout", "fgsm", "rs-fgsm", "n-fgsm", "pgd", "free", "trades", "vat",
    "previous-batch", "atta", "fgsm-pgi", "tdat", "gat", "nuat", "gradalign", "mart", "slat",
    "datagrad", "datagrad-exact", "input-gradient", "lots", "sam", "awp", "mixup", "cutmix",
    "label-smoothing", "layerwise-slot", "layerwise-paired", "composed-sam", "composed-awp",
)  # fmt: skip
"""Of the methods, one for each body of a step; the others differ in norms, sites and memories."""

CARRYING = (
    "rs-fgsm", "free", "free-example", "vat", "previous-batch", "previous-epoch", "atta",
    "fgsm-pgi", "tdat", "gat", "nuat", "mixup", "cutmix", "layerwise-slot", "layerwise-example",
    "layerwise-paired", "layerwise-exchanged", "layerwise-warm", "layerwise-auto", "composed-mixup",
)  # fmt: skip
"""Of the methods, one for each way to carry something from step to step; the random numbers of
`rs-fgsm` stand for those of all attacks."""

LAST = ("fgsm", "fgsm-pgi", "tdat", "gat", "nuat", "mart", "lots")
"""Of the methods, those whose outputs are those of the last of several training passes."""

HOOKED = ("dropout", "slat", "layerwise-slot")
"""Of the methods, one for each kind of hook: its own, those of `SiteHooks`, the adversary's."""


def train(model, method, stream, *, optimizer=None, backward=torch.Tensor.backward):
    """Steps an attached method over a stream of mini-batches; returns the losses."""
    optimizer = optimizer or sgd(model)
    losses = []
    for batch in stream:
        losses.append(method.step(model, batch, F.cross_entropy, backward).loss)
        optimizer.step()
        optimizer.zero_grad()
    return torch.stack(losses) if losses else torch.empty(0)


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def loss_of(model, batch, adversary=None):
    """The loss of one mini-batch in a loop of one's own."""
    if adversary is not None and batch.indices is not None:
        adversary.set_batch(batch.indices, batch.view)
    return F.cross_entropy(model(batch.inputs), batch.targets)


def walk(model, adversary, stream, loss=loss_of):
    """Trains with the adversary alone, attached already; returns the losses."""
    optimizer = sgd(model)
    losses = []
    for batch in stream:
        value = loss(model, batch, adversary)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.detach())
    return torch.stack(losses) if losses else torch.empty(0)


def weights(model):
    """All of a network's state as one mapping of copies."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def identical(left, right):
    """Whether two nested states are equal bit for bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and left.equal(right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(identical(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(identical, left, right))
    return left == right
