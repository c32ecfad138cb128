"""The settings of a hashing run, and its configuration as one object and one YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from advreg.errors import ConfigurationError
from advreg.hashing.losses.generated import generated_count
from advreg.hashing.packing import CodeFormat
from advreg.training.configuration import PARTS, Configuration
from advreg.training.settings import MethodSettings, OptimizerSettings, check
from advreg.units import non_negative

RATES = {"adamw": 2e-3, "sgd": 1e-2}
"""Learning rates where none is given: with SGD at 0.05 DPSH's loss overflows."""


@dataclass(frozen=True)
class HashDataSettings:
    """Which images, how they are split, and how the training images are varied.

    Args:
        name: A data set (digits, cifar10, ...), a folder of parquet files or images, or an .npz
            file with arrays images and targets; targets may be (I, K) labels.
        split: cifar10, cifar10-1, cifar10-2, digits, or disjoint, inside, own for any data;
            None is the data set's own.
        query: Query images a class; None is the split's.
        train: Training images a class; None is the split's.
        seed: Draws the split; kept apart from the run's seed so that runs of several seeds train
            on the same images.
        augment: none, crop, crop_flip and so on, as for advreg train.
        padding: Pixels added on every side before cropping; None is an eighth of the height.
        crop_step: Pixels from one place of the crop to the next, as for advreg train.
        view_epochs: Epochs that an image keeps its crop and flip for, likewise.
        view_block: Batches until an image comes again with the same crop and flip, likewise.
        download: Fetch a data set from the hub when it is not on this machine.
    """

    name: str = "digits"
    split: str | None = None
    query: int | None = None
    train: int | None = None
    seed: int = 0
    augment: str = "none"
    padding: int | None = None
    crop_step: int = 1
    view_epochs: int = 1
    view_block: int | None = None
    download: bool = False


@dataclass(frozen=True)
class CodeSettings:
    """The codes.

    Args:
        bits: q, a multiple of 8 up to 256; or 12, padded to 16 when packed.
        classifier: The dotted name of the backbone's layer to cut off; None is its last linear
            one.
    """

    bits: int = 16
    classifier: str | None = None

    def __post_init__(self) -> None:
        CodeFormat(self.bits)


@dataclass(frozen=True)
class LossSettings:
    """Which loss, and its settings.

    Args:
        name: A key of `advreg.hashing.LOSSES`.
        settings: Keyword arguments of the loss's class; what is left out has its default.
    """

    name: str = "triplet"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainMethod(MethodSettings):
    """As `MethodSettings`, plain training where none is named.

    Args:
        name: A key of `advreg.methods.METHODS`.
        settings: Of the method.
    """

    name: str = "standard"


@dataclass(frozen=True)
class GeneratedSettings:
    """The maximum-entropy term on generated images.

    Args:
        folder: What advreg hash generate left, trained on the same training images; None trains
            without generated images.
        share: Of each mini-batch that is generated, in [0, 1).
        weight: Of the term.
    """

    folder: str | None = None
    share: float = 0.5
    weight: float = 1.0

    def __post_init__(self) -> None:
        generated_count(self.share, 1)
        non_negative(self.weight, "generated.weight")


@dataclass(frozen=True)
class HashConfiguration(Configuration):
    """Everything that one hashing run is made from.

    Args:
        code: The codes.
        loss: The loss of real images.
        generated: The term on generated ones.
    """

    # The images of a hashing run are split another way than those of a classifier.
    data: HashDataSettings = field(  # type: ignore[assignment]
        default_factory=HashDataSettings
    )
    method: MethodSettings = field(default_factory=PlainMethod)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings("adamw", RATES["adamw"])
    )
    code: CodeSettings = field(default_factory=CodeSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    generated: GeneratedSettings = field(default_factory=GeneratedSettings)
    parts: ClassVar[dict[str, type[Any]]] = {
        **PARTS,
        "data": HashDataSettings,
        "method": PlainMethod,
        "code": CodeSettings,
        "loss": LossSettings,
        "generated": GeneratedSettings,
    }

    def __post_init__(self) -> None:
        check(
            not self.optimizer.label_smoothing,
            "optimizer.label_smoothing",
            self.optimizer.label_smoothing,
            "0, for codes have no class probabilities",
        )
        alone = self.run.devices == 1 and self.run.strategy == "auto"
        check(alone, "devices", self.run.devices, "1 and strategy auto to train codes")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HashConfiguration:
        """As `Configuration.from_dict`, with AdamW at 2e-3 where no optimizer is given.

        Raises:
            ConfigurationError: A key is unknown or a value cannot work.
        """
        given = values.get("optimizer", {})
        given = {"name": given} if isinstance(given, str) else dict(given)
        given.setdefault("name", "adamw")
        if given.get("learning_rate") is None and given["name"] in RATES:
            given["learning_rate"] = RATES[given["name"]]
        found = super().from_dict({**values, "optimizer": given})
        assert isinstance(found, cls)
        return found


def check_is_hashing(values: dict[str, Any], path: object) -> None:
    """Refuses the configuration of a run of another kind.

    Raises:
        ConfigurationError: It has no codes.
    """
    if "code" not in values:
        raise ConfigurationError(
            f"{path} holds no run of advreg hash train; name the folder of one."
        )
