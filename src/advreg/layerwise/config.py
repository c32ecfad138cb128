"""The settings of an adversary, validated once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from advreg.checks import check_range
from advreg.errors import ConfigurationError
from advreg.layerwise.budget import BUDGET_SPLITS, Epsilon, parse_epsilon
from advreg.layerwise.directions import DIRECTIONS, Direction
from advreg.layerwise.memory import MEMORIES, STARTS, MemoryRule, Start
from advreg.layerwise.sites import INPUT
from advreg.units import Number, choice, count, non_negative


@dataclass(frozen=True)
class LayerwiseConfig:
    """What a layerwise adversary perturbs, how far, and what it remembers.

    Args:
        epsilon: The budget: one number for all sites, or a mapping from site glob to number, of
            which the last that matches a site counts. Fractions such as "8/255" are read.
        sites: Globs over dotted module names, "input", or a site rule such as "@default"; None
            chooses the keys of an epsilon mapping, else the input and the outputs of stages and
            blocks (`default_sites`), for example memory the input alone.
        memory: "slot", the paper's: row i is perturbed by what position i of the previous
            mini-batch left; or "example": each example is perturbed by what its own last visit
            left, for which `set_batch` must be called before each forward pass.
        direction: "sign", "l2" or "max" of the gradient (see `direction`), or "random": fresh
            signs and no memory, the control.
        relative: Whether epsilon is in units of the activation's root mean square; None is
            absolute at the input and relative at hidden sites.
        input_range: Range to clamp the perturbed input to; None takes the network's own
            `input_range` attribute, without which nothing is clamped.
        batch_dim: The dimension that counts examples.
        start: "zero", or "random": a random direction within the budget before the first one.
        step_size: Accumulation, in the units of epsilon: the perturbation becomes
            clip(perturbation + step_size * sign(gradient), -epsilon, epsilon), kept in steps of
            epsilon / 127; None replaces it.
        rms_interval: Mini-batches between two measurements of the relative budget's scale.
        budget_split: None gives each site its whole epsilon; "sum" divides it by the number of
            sites, "root" by its square root.
        warmup: Mini-batches over which epsilon grows linearly from zero.
        examples: The number of training examples, for an example memory that need not grow and
            then refuses an index beyond it.
        seed: Of the random start and the random signs.
        input_name: The parameter of the network's `forward` that is its input; None is the first.

    Raises:
        ConfigurationError: A setting has a type or a value that cannot work.
    """

    epsilon: Epsilon
    sites: list[str] | tuple[str, ...] | str | None = None
    memory: str = "slot"
    direction: Direction = "sign"
    relative: bool | None = None
    input_range: tuple[float, float] | None = None
    batch_dim: int = 0
    start: Start = "zero"
    step_size: Number | None = None
    rms_interval: int = 1
    budget_split: str | None = None
    warmup: int = 0
    examples: int | None = None
    seed: int = 0
    input_name: str | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("epsilon", parse_epsilon(self.epsilon))
        put("sites", _patterns(self.sites))
        choice("memory", self.memory, tuple(MEMORIES))
        choice("direction", self.direction, DIRECTIONS)
        choice("start", self.start, STARTS)
        if self.budget_split is not None:
            choice("budget_split", self.budget_split, tuple(BUDGET_SPLITS))
        if self.relative is not None and not isinstance(self.relative, bool):
            raise ConfigurationError(
                f"relative is {self.relative!r}; give true, false, or leave it out."
            )
        if self.input_range is not None:
            put("input_range", check_range(self.input_range))
        if self.step_size is not None:
            put("step_size", non_negative(self.step_size, "step_size"))
            if self.direction != "sign":
                raise ConfigurationError(
                    f"step_size accumulates signs, not direction={self.direction!r};"
                    ' use direction="sign" or leave step_size out.'
                )
        least = {"batch_dim": 0, "rms_interval": 1, "warmup": 0, "examples": 1, "seed": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if not (name == "examples" and value is None):
                count(name, value, lowest)
        if self.input_name is not None and not isinstance(self.input_name, str):
            raise ConfigurationError(
                f"input_name is {self.input_name!r}; give the name of a parameter of forward."
            )

    @property
    def patterns(self) -> tuple[str, ...] | None:
        """The globs of the sites; None is the network's default ones."""
        if self.sites is not None:
            return tuple(self.sites)
        if isinstance(self.epsilon, Mapping):
            return tuple(self.epsilon)
        return (INPUT,) if self.memory == "example" else None

    def rule(self, epsilon: float) -> MemoryRule:
        """How the memory of a site with this budget is kept."""
        step = self.step_size
        if step is not None:
            step = float(step) / epsilon if epsilon else 1.0
        return MemoryRule(self.direction, self.batch_dim, self.start, step, self.examples)

    def relative_at(self, site: str) -> bool:
        """Whether the budget of a site is in units of its root mean square."""
        return site != INPUT if self.relative is None else self.relative

    @property
    def kind(self) -> dict[str, Any]:
        """What a state must agree with to be restored."""
        kind = {name: getattr(self, name) for name in ("memory", "direction", "batch_dim")}
        return {**kind, "accumulates": self.step_size is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint or a YAML file holds them."""
        plain = asdict(self)
        for name in ("sites", "input_range"):
            plain[name] = None if plain[name] is None else list(plain[name])
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerwiseConfig:
        """Reads what `to_dict` returned; what is left out has its default.

        Raises:
            ConfigurationError: A key is unknown or a value cannot work.
        """
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigurationError(
                f"A layerwise adversary has no setting {', '.join(unknown)};"
                f" choose from {', '.join(known)}."
            )
        return cls(**values)

    def arguments(self) -> str:
        """The arguments that make this configuration, those with their default left out."""
        chosen = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.default is MISSING or getattr(self, item.name) != item.default
        }
        return ", ".join(f"{name}={value!r}" for name, value in chosen.items())

    def __repr__(self) -> str:
        return f"LayerwiseConfig({self.arguments()})"


def _patterns(sites: Iterable[str] | str | None) -> tuple[str, ...] | None:
    if sites is None:
        return None
    patterns = (sites,) if isinstance(sites, str) else sites
    try:
        patterns = tuple(patterns)
    except TypeError:
        patterns = ()
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ConfigurationError(
            f'sites is {sites!r}; give globs of module names, such as ["input", "layer*"].'
        )
    return patterns
