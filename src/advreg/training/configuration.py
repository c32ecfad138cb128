"""What a run is made of, as one object and as the one YAML file that it becomes."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import yaml

from advreg.errors import ConfigurationError
from advreg.training.settings import (
    DataSettings,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    RunSettings,
    ScheduleSettings,
    check,
)

PARTS = {
    "data": DataSettings,
    "model": ModelSettings,
    "method": MethodSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
}
"""The named parts of a configuration; the run's settings stand beside them."""


DEEPEST = 20
"""How deep values may be nested in a file; a budget for each site is three deep."""


@dataclass(frozen=True)
class Configuration:
    """Everything that one run is made from.

    Args:
        run: Length, batch size, seed, device and folder.
        data: The images.
        model: The network.
        method: The way of training.
        optimizer: The update of the weights.
        schedule: The learning rate's.
        origins: Where settings are from that the user did not give, by their dotted names.
    """

    run: RunSettings
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    origins: dict[str, str] = field(default_factory=dict, compare=False)
    parts: ClassVar[dict[str, type[Any]]] = PARTS

    def to_dict(self) -> dict[str, Any]:
        """Plain values as in `config.yaml`: the run's settings flat, a mapping for each part."""
        parts = {name: _values(getattr(self, name)) for name in self.parts}
        parts["schedule"]["milestones"] = list(self.schedule.milestones)
        return {**asdict(self.run), **parts}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Configuration:
        """Reads what `to_dict` returned; what is left out has its default.

        Raises:
            ConfigurationError: A key is unknown or a value cannot work.
        """
        values = dict(values)
        parts: dict[str, Any] = {}
        for part, kind in cls.parts.items():
            given = values.pop(part, {})
            if _is_named(kind):
                settings = dict(_mapping(part, given))
                parts[part] = kind(settings.pop("name", kind.name), settings)
            else:
                parts[part] = _build(kind, part, given)
        return cls(run=_build(RunSettings, "the configuration", values), **parts)


def _is_named(kind: type[Any]) -> bool:
    """Whether a part is a name and that name's own settings, which stand beside it in the file."""
    return [item.name for item in fields(kind)] == ["name", "settings"]


def _values(part: Any) -> dict[str, Any]:
    if _is_named(type(part)):
        return {"name": part.name, **_plain(part.settings)}
    return asdict(part)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):  # `model: resnet20` is what one would write by hand
        return {"name": value}
    check(isinstance(value, dict), name, value, "a name, or a mapping of settings")
    return value


def _build(kind: type[Any], where: str, values: Any) -> Any:
    values = _mapping(where, values)
    known = [item.name for item in fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigurationError(
            f"{where} has no setting {', '.join(map(str, unknown))}; it has {', '.join(known)}."
        )
    try:
        return kind(**values)
    except TypeError as error:  # a comparison with text, say
        raise ConfigurationError(f"A setting of {where} has the wrong type: {error}.") from None


def _plain(value: Any) -> Any:
    """Tuples as lists and mappings as dicts, so that YAML can hold them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Loader(yaml.SafeLoader):
    """Reads plain values; an alias could make a few lines endless, and nesting end the stack."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases such as *name are not read")
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name!r} stands twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a configuration file.

    Raises:
        ConfigurationError: It is missing, not YAML, nested too deeply, or not a mapping.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}); give a YAML file."
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of text, numbers and dates
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path} is not YAML; mend it: {reason}.") from None
    check(isinstance(values, dict), str(path), values, "a file with one 'key: value' a line")
    return values
