"""What a study of codes compares, as one reads it from a file; the demo's is built in."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from advreg.errors import ConfigurationError
from advreg.hashing.generator import GeneratorSettings
from advreg.hashing.settings import HashConfiguration
from advreg.study.plan import Arm, Plan
from advreg.training.configuration import read_yaml
from advreg.units import count, number

OWN = ("out", "seed", "device", "threads", "tensorboard")
"""Settings of a run that the study decides."""


@dataclass(frozen=True)
class HashMeasuring:
    """How every run is measured, by the weights of its last epoch.

    Args:
        epsilons: L-infinity budgets of the attacks on queries, as written.
        steps: Of the attacks.
        attacked: Queries that are attacked, the first so many; None is all.
        splits: Further splits with the same queries and training images, whose mAP is given too.

    Raises:
        ConfigurationError: A setting cannot work.
    """

    epsilons: tuple[str, ...] = ("8/255", "0.1")
    steps: int = 20
    attacked: int | None = None
    splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count("evaluation.steps", self.steps)
        if self.attacked is not None:
            count("evaluation.attacked", self.attacked)
        for name in ("epsilons", "splits"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise ConfigurationError(f"evaluation.{name} is {value!r}; give a list.")
            object.__setattr__(self, name, tuple(map(str, value)))
        for text in self.epsilons:
            number(text, "evaluation.epsilons")


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return "-".join("".join(c if c.isalnum() else " " for c in label.lower()).split())


@dataclass(frozen=True)
class HashStudy:
    """Ways of training codes, from the same seeds, on one split and with one generator.

    Args:
        title: For people.
        lead: What was trained, for people.
        base: A run's configuration as in `config.yaml`, without out and seed.
        arms: For each label what the arm changes in the base; `generated: true` is with generated
            images. The first is what the others are compared with.
        seeds: Of the runs, the same for every arm, so that differences are paired.
        bits: Further lengths of the codes, trained from the first seed alone.
        generator: Settings of the generator, as of `advreg hash generate`.
        pool: Images that it draws.
        evaluation: How every run is measured.
        device: cpu or cuda, of trainings and attacks.

    Raises:
        ConfigurationError: A setting cannot work.
    """

    title: str
    lead: str
    base: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    seeds: int = 10
    bits: tuple[int, ...] = ()
    generator: dict[str, Any] = field(default_factory=dict)
    pool: int = 2000
    evaluation: HashMeasuring = field(default_factory=HashMeasuring)
    device: str = "cpu"

    def __post_init__(self) -> None:
        count("seeds", self.seeds)
        count("pool", self.pool)
        parts = [(name, getattr(self, name)) for name in ("base", "arms", "generator")]
        if isinstance(self.arms, dict):
            parts += [(f"arms.{label}", changes) for label, changes in self.arms.items()]
        for name, value in parts:
            if not isinstance(value, dict):
                raise ConfigurationError(f"{name} is {value!r}; give a mapping.")
        labels: dict[str, str] = {}
        for label in self.arms:
            other = labels.setdefault(slug(label), label)
            if other != label:
                raise ConfigurationError(
                    f"The arms {other!r} and {label!r} would share their files; give them labels"
                    " that differ in letters or digits."
                )
        if not isinstance(self.bits, list | tuple):
            raise ConfigurationError(f"bits is {self.bits!r}; give a list of lengths.")
        taken = [name for name in OWN if name in self.base]
        if taken:
            raise ConfigurationError(
                f"base holds {', '.join(taken)}, which the study decides; leave them out."
            )
        if isinstance(self.evaluation, dict):
            object.__setattr__(self, "evaluation", _built(HashMeasuring, self.evaluation))
        object.__setattr__(self, "bits", tuple(self.bits))
        self.settings_of_generator()
        for arm, seed in self.runs():
            self.configuration(arm, seed, "generator", "run")

    @property
    def length(self) -> int:
        """Bits of the codes of the runs from all seeds."""
        return self._first.code.bits

    @property
    def epochs(self) -> int:
        """Of the first arm."""
        return self._first.run.epochs

    @property
    def _first(self) -> HashConfiguration:
        return self.configuration(self.plan().arms[0], 0, "", "run")

    def plan(self) -> Plan:
        """Every arm from every seed."""
        return Plan(tuple(map(self._arm, self.arms)), tuple(range(self.seeds)))

    def length_plan(self, bits: int) -> Plan:
        """Every arm with codes of another length, from the first seed."""
        plan = self.plan()
        arms = (replace(a, settings={**a.settings, "code": {"bits": bits}}) for a in plan.arms)
        return Plan(tuple(arms), plan.seeds[:1])

    def runs(self) -> list[tuple[Arm, int]]:
        """All runs; those of further lengths are last."""
        further = [run for bits in self.bits for run in self.length_plan(bits).runs()]
        return [*self.plan().runs(), *further]

    def _arm(self, label: str) -> Arm:
        changes = self.arms[label]
        method = changes.get("method", self.base.get("method", "standard"))
        name = method.get("name", "standard") if isinstance(method, dict) else str(method)
        return Arm(label, name, changes)

    def configuration(self, arm: Arm, seed: int, generator: str, out: str) -> HashConfiguration:
        """The configuration of one run.

        Args:
            arm: Of the plan, or one of `lengths`.
            seed: Of the run.
            generator: The folder of the generator, for the arms that train with one.
            out: The run's folder.
        """
        values, changes = deepcopy(self.base), deepcopy(arm.settings)
        generated = changes.pop("generated", False)
        if not isinstance(generated, bool):
            raise ConfigurationError(
                f"generated of {arm.label!r} is {generated!r}; give true or false, and share and"
                " weight in the base."
            )
        for part, value in changes.items():
            both = isinstance(value, dict) and isinstance(values.get(part), dict)
            values[part] = {**values[part], **value} if both else value
        values["generated"] = {
            **(values.get("generated") or {}),
            "folder": generator if generated else None,
        }
        own = {"out": out, "seed": seed, "device": self.device, "threads": 1, "tensorboard": False}
        return HashConfiguration.from_dict({**values, **own})

    def settings_of_generator(self) -> GeneratorSettings:
        """The generator's settings."""
        return _built(GeneratorSettings, self.generator)

    def shortened(self) -> HashStudy:
        """A study that shows that everything works, and nothing more."""
        return replace(
            self,
            base={**self.base, "epochs": min(4, self.base.get("epochs", 4))},
            generator={**self.generator, "steps": 60},
            evaluation=replace(self.evaluation, steps=5, attacked=50),
            bits=self.bits[:1],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)


def _built(kind: type[Any], values: dict[str, Any]) -> Any:
    known = [one.name for one in fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigurationError(f"{unknown[0]!r} is no setting; choose among {', '.join(known)}.")
    return kind(**values)


def read_hash_study(path: str | os.PathLike[str]) -> HashStudy:
    """Reads a study of codes from its YAML file.

    Raises:
        ConfigurationError: It is missing or damaged, a key is unknown, or a value cannot work.
    """
    values = read_yaml(path)
    for name in ("title", "lead", "base", "arms"):
        if name not in values:
            raise ConfigurationError(f"{path} has no {name}; write it as in the documentation.")
    found: HashStudy = _built(HashStudy, values)
    return found


DIGITS = HashStudy(
    title="What generated images and layerwise perturbations do to codes of digits",
    lead="A small network maps digits to codes of 16 bits, by which similar ones are found. It was"
    " trained by triplets in 5 ways: plainly, with generated images on which the bits are drawn to"
    " be undecided, with layerwise perturbations of the input, with both, and with dropout.",
    base={"epochs": 20, "batch_size": 64, "code": {"bits": 16}},
    arms={
        "Triplet": {},
        "With generated images": {"generated": True},
        "With layerwise": {"method": {"name": "layerwise", "sites": ["input"], "epsilon": 0.1}},
        "With both": {
            "method": {"name": "layerwise", "sites": ["input"], "epsilon": 0.1},
            "generated": True,
        },
        "With dropout": {"method": {"name": "dropout", "p": 0.3}},
    },
    generator={"steps": 1500},
    evaluation=HashMeasuring(attacked=100),
)
"""What `advreg hash demo` runs."""
