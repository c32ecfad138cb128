"""The settings of a run in small dataclasses, each of which refuses what cannot work."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from advreg.errors import ConfigurationError

_LONGEST_NAME, _LONGEST_PATH = 255, 3500
"""Bytes; what is written inside needs some of a path's 4,096."""


MOST_THREADS = 1024
"""With many more the operating system ends the process without a word."""


def check(holds: bool, name: str, value: object, wanted: str) -> None:
    """Refuses a setting by name; NaN fails every comparison and so every check.

    Raises:
        ConfigurationError: It does not hold.
    """
    if not holds:
        raise ConfigurationError(f"{name} is {value!r}; give {wanted}.")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    check(value in choices, name, value, "one of " + ", ".join(choices))


def _check_count(name: str, value: object, least: int = 1, most: int = 2**63 - 1) -> None:
    whole = value if isinstance(value, int) and not isinstance(value, bool) else None
    check(whole is not None and whole >= least, name, value, f"a whole number of at least {least}")
    check(whole is not None and whole <= most, name, value, f"a whole number of at most {most}")


def _check_path(name: str, value: object) -> None:
    readable = isinstance(value, str) and value.isprintable()  # undecodable bytes are not
    check(readable, name, value, "a name of plain characters")
    longest = max(len(part.encode()) for part in str(value).split("/"))
    if longest > _LONGEST_NAME or len(str(value).encode()) > _LONGEST_PATH:
        raise ConfigurationError(f"{name} is {len(str(value))} characters long; shorten it.")


@dataclass(frozen=True)
class DataSettings:
    """Which images, how many, and how they are varied.

    Args:
        name: A data set (digits, cifar10, ...); a folder of train-*.parquet files, of <class>/ or
            train/<class>/ images, or of images.npy and targets.npy; an .npz file of such arrays;
            or hub:OWNER/NAME, a repository of the Hugging Face hub.
        limit: Use only so many training images, the same for every seed; None is all.
        validation: Share of the training images (below 1) or number of them kept for choosing
            the best checkpoint.
        seed: Draws the limited and the validation images; kept apart from the run's seed so
            that runs of several seeds train on the same images.
        augment: none, crop or crop_flip, then randaugment or autoaugment, then cutout, joined by
            plus (crop_flip+cutout); None is what is usual for the data set.
        padding: Pixels added on every side before cropping; None is an eighth of the height.
        crop_step: Pixels from one place of the crop to the next. What example memory holds fits
            best where this is the network's total stride, 4 for resnet20.
        view_epochs: Epochs that an image keeps its crop and flip for, before others are drawn;
            2 and more help example memory.
        view_block: Batches until an image comes again with the same crop and flip: blocks of so
            many batches come view_epochs times in a row, so that what example memory holds is of
            nearly the same weights. None is an epoch.
        download: Fetch a data set from the hub when it is not on this machine.
        image_column: Of parquet files, where it is not img or image.
        label_column: Of parquet files, where it is not label or fine_label.
    """

    name: str = "digits"
    limit: int | None = None
    validation: float = 0.1
    seed: int = 0
    augment: str | None = None
    padding: int | None = None
    crop_step: int = 1
    view_epochs: int = 1
    view_block: int | None = None
    download: bool = False
    image_column: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        check(isinstance(self.name, str), "data.name", self.name, "a name or a folder")
        if self.limit is not None:
            _check_count("data.limit", self.limit)
        share = self.validation
        check(
            0 < share < math.inf, "data.validation", share, "a share below 1 or a number of images"
        )
        _check_count("data.seed", self.seed, 0)
        if self.padding is not None:
            _check_count("data.padding", self.padding, 0)
        _check_count("data.crop_step", self.crop_step)
        _check_count("data.view_epochs", self.view_epochs)
        if self.view_block is not None:
            _check_count("data.view_block", self.view_block)
            wanted = "2 or more with a view_block, so that its blocks come again"
            check(self.view_epochs > 1, "data.view_epochs", self.view_epochs, wanted)

    def as_they_are(self) -> DataSettings:
        """The same images, not varied."""
        shown = replace(self, augment=None, padding=None)
        return replace(shown, crop_step=1, view_epochs=1, view_block=None)


@dataclass(frozen=True)
class ModelSettings:
    """Which network; classes and image size are the data's.

    Args:
        name: A network of this package, such as resnet20, preactresnet18 or convnet; or
            package.module:function, a function of one's own that returns the network; or
            timm:NAME or transformers:NAME, where they are installed.
        args: Further arguments of a network that is not this package's.
        normalize: Put the data's mean and deviation before such a network, which is given pixels
            in [0, 1] otherwise; by default true for timm and transformers, false for one's own.
    """

    name: str = "convnet"
    args: dict[str, Any] | None = None
    normalize: bool | None = None

    def __post_init__(self) -> None:
        check(isinstance(self.name, str), "model.name", self.name, "the name of a network")
        mapping = self.args is None or isinstance(self.args, dict)
        check(mapping, "model.args", self.args, "a mapping of names to values")
        chosen = self.normalize in (None, True, False)
        check(chosen, "model.normalize", self.normalize, "true or false")


@dataclass(frozen=True)
class MethodSettings:
    """Which method of training, and its settings.

    Args:
        name: A key of `advreg.methods.METHODS`.
        settings: Keyword arguments of the method's class; what is left out has its default.
    """

    name: str = "layerwise"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(isinstance(self.name, str), "method.name", self.name, "the name of a method")


@dataclass(frozen=True)
class OptimizerSettings:
    """How the weights are updated.

    Args:
        name: sgd or adamw.
        learning_rate: The schedule's peak; None is 0.1 for sgd and 0.001 for adamw.
        momentum: Of sgd.
        nesterov: Whether sgd's momentum is Nesterov's.
        weight_decay: On every parameter; decoupled in adamw.
        clip: Largest L2 norm of the whole gradient; None does not clip.
        ema: Decay of the exponential moving average of the weights, such as 0.999; None keeps
            none. Where there is one, the average is what is validated and deployed.
        swa: Stochastic weight averaging in its place: the share of the training after which the
            weights at each epoch's end are averaged equally, such as 0.75. The batch statistics
            are taken afresh by one more forward pass over these epochs' images.
        label_smoothing: Share of each target spread over all classes.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    clip: float | None = None
    ema: float | None = None
    swa: float | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_choice("optimizer.name", self.name, ("sgd", "adamw"))
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", 0.1 if self.name == "sgd" else 0.001)
        rate, positive = self.learning_rate, "a finite number above 0"
        check(rate is not None and 0 < rate < math.inf, "optimizer.learning_rate", rate, positive)
        check(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "a number in [0, 1)")
        nesterov_works = self.name != "sgd" or not self.nesterov or self.momentum > 0
        check(nesterov_works, "optimizer.momentum", self.momentum, "more, or set nesterov to false")
        decay = self.weight_decay
        check(0 <= decay < math.inf, "optimizer.weight_decay", decay, "a number of at least 0")
        if self.clip is not None:
            check(0 < self.clip < math.inf, "optimizer.clip", self.clip, positive)
        if self.ema is not None:
            check(0 <= self.ema < 1, "optimizer.ema", self.ema, "a decay in [0, 1)")
        if self.swa is not None:
            check(0 <= self.swa < 1, "optimizer.swa", self.swa, "a share in [0, 1)")
            check(self.ema is None, "optimizer.swa", self.swa, "it or ema, not both")
        smoothing = self.label_smoothing
        check(0 <= smoothing < 1, "optimizer.label_smoothing", smoothing, "a share in [0, 1)")


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate moves; every time is a share of the whole training.

    Args:
        name: one_cycle (up, then down to nearly zero), cosine, or step.
        warmup: Share spent rising to the peak; None is 0.3 for one_cycle and 0 otherwise.
        milestones: Of step: where the rate falls.
        factor: Of step: what it is multiplied by at each milestone.
    """

    name: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    warmup: float | None = None
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check_choice("schedule.name", self.name, ("one_cycle", "cosine", "step"))
        if self.warmup is None:
            object.__setattr__(self, "warmup", 0.3 if self.name == "one_cycle" else 0.0)
        warmup = self.warmup
        inside = warmup is not None and 0 <= warmup < 1
        check(inside, "schedule.warmup", warmup, "a share in [0, 1)")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        shares = all(0 < share < 1 for share in self.milestones)
        check(shares, "schedule.milestones", self.milestones, "shares between 0 and 1")
        check(0 < self.factor <= 1, "schedule.factor", self.factor, "a number in (0, 1]")


@dataclass(frozen=True)
class RunSettings:
    """How long, how large, from which seed, on what, and where to.

    Args:
        out: The run folder; a new or empty one, unless the run is resumed.
        epochs: Passes over the training images.
        batch_size: Examples in a mini-batch.
        accumulate: Mini-batches whose gradients make one optimizer step.
        seed: Of initial weights, order, augmentation and all other randomness.
        precision: 32-true, bf16-mixed or 16-mixed (a GPU's).
        device: auto, cpu or cuda.
        devices: Processes, each with a GPU of its own or all on the CPU, that share every
            mini-batch.
        strategy: ddp shares mini-batches between devices, or between the processes that torchrun
            has started; auto does where devices is above 1.
        threads: Threads of the CPU; None leaves torch's choice.
        channels_last: Keep images and convolutions in the channels-last layout.
        compile: Train the network compiled by torch.compile: slow to start, then faster.
        deterministic: Refuse operations whose result differs from run to run.
        checkpoint_every: Also save every so many optimizer steps; None saves at each epoch's
            end and on an interrupt.
        checkpoint_minutes: Also save every so many minutes, at an optimizer step's end.
        keep_checkpoints: How many of the last checkpoints stay in the folder: where the newest
            one is damaged, the run goes on from the one before.
        tensorboard: Also write TensorBoard's event files.
        monitor: Attack a few validation images with PGD, after each epoch of a single-step
            method, and of example memory at the input now and then from half of the training on:
            to see whether it protects, and to choose the best epoch by.
        probe: Also write, an epoch, how large the perturbations of a method with layerwise sites
            were there and their cosine with the gradients that came back; see `SiteProbe`.
    """

    out: str = ""
    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    threads: int | None = None
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    checkpoint_every: int | None = None
    checkpoint_minutes: float | None = None
    keep_checkpoints: int = 2
    tensorboard: bool = True
    monitor: bool = True
    probe: bool = False

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigurationError("No run folder is named; name a new one with --out.")
        _check_path("out", self.out)
        if self.checkpoint_minutes is not None:
            positive = 0 < self.checkpoint_minutes < math.inf
            check(positive, "checkpoint_minutes", self.checkpoint_minutes, "a number above 0")
        for name in ("epochs", "batch_size", "accumulate", "devices", "keep_checkpoints"):
            _check_count(name, getattr(self, name))
        shared = self.batch_size % self.devices == 0
        check(shared, "batch_size", self.batch_size, f"a multiple of devices, {self.devices}")
        _check_choice("strategy", self.strategy, ("auto", "ddp"))
        _check_count("seed", self.seed, 0)
        if self.threads is not None:
            _check_count("threads", self.threads, most=MOST_THREADS)
        for name in ("threads", "checkpoint_every"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        _check_choice("precision", self.precision, ("32-true", "bf16-mixed", "16-mixed"))
        _check_choice("device", self.device, ("auto", "cpu", "cuda"))
