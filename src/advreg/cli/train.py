"""`advreg train`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.cli.parsing import Parser, complete, values_of, write_out
from advreg.errors import ConfigurationError

if TYPE_CHECKING:  # imports torch
    from advreg.methods import Method
    from advreg.training.configuration import Configuration

EXAMPLES = """\
examples:
  Layerwise adversarial training on the digits that come with scikit-learn:
    advreg train --data digits --model convnet --method layerwise --epochs 40 --out runs/first

  The paper's setting on CIFAR-10, fetched once, with a chosen budget:
    advreg train --data cifar10 --download --model resnet20 --method layerwise \\
        --method.epsilon 8/255 --epochs 30 --out runs/layerwise

  What to compare it with, on the same images and from the same seed:
    advreg train --data cifar10 --model resnet20 --method standard --epochs 30 --out runs/plain

  Each example's own memory, fewer images, AdamW and a moving average of the weights:
    advreg train --data cifar10 --model resnet20 --method layerwise --method.memory example \\
        --limit 10000 --optimizer adamw --optimizer.ema 0.999 --out runs/example

  From a file, some of it changed; go on after an interrupt; then look at the result:
    advreg train --config runs/plain/config.yaml --seed 1 --out runs/plain-1
    advreg train --out runs/plain-1 --resume
    advreg evaluate runs/plain-1

--method NAME decides which --method.* settings there are:
  advreg train --method fgsm --help
"""


def read_files(arguments: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Takes `--config FILE` out of the arguments and reads the files.

    Returns:
        The files' values, `model: resnet20` written out as `model: {name: resnet20}`, and the
        other arguments, which win over the files wherever they stand.
    """
    from advreg.training.configuration import PARTS, read_yaml

    paths, rest = values_of(arguments, "config"), list(arguments)
    for path in paths:
        if f"--config={path}" in rest:
            rest.remove(f"--config={path}")
        else:
            place = rest.index("--config")
            del rest[place : place + 2]
    files = [read_yaml(path) for path in paths]
    for values in files:
        for part in PARTS.keys() & values.keys():
            if isinstance(values[part], str):
                values[part] = {"name": values[part]}
    return files, rest


def build_parser(method: str) -> Parser:
    """The parser for a run under one method: its settings are options."""
    from advreg.methods import METHODS
    from advreg.training.configuration import PARTS
    from advreg.training.settings import RunSettings

    parser = Parser(
        prog="advreg train",
        description="Trains a network into a folder: configuration, metrics, checkpoints.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--config", action="config", help="A YAML file; options win over it.")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="Go on with the run in --out, with its own settings; start it where there is none.",
    )
    run = parser.add_argument_group("run")
    run.add_class_arguments(RunSettings, as_group=False)
    for part, settings in PARTS.items():
        group = parser.add_argument_group(part)
        if part == "method":
            names = ", ".join(METHODS)
            told = f"One of {names}; or layerwise+mixup, layerwise+sam, layerwise+pgd."
            group.add_argument("--method.name", type=str, default=method, help=told)
            for prefix, kind in method_parts(method).items():
                group.add_class_arguments(kind, prefix, as_group=False)
        else:
            group.add_class_arguments(settings, part, as_group=False)
    return parser


def method_parts(method: str) -> dict[str, type[Method]]:
    """The classes whose settings are options, by the options' prefix.

    Of `layerwise+mixup` these are `method.layerwise` and `method.mixup`.
    """
    from advreg.methods import METHODS

    if "+" not in method:
        return {"method": METHODS[method]} if method in METHODS else {}
    return {f"method.{part}": METHODS[part] for part in method.split("+") if part in METHODS}


def choose_method(files: list[dict[str, Any]], arguments: list[str]) -> str:
    """The method that is meant, needed before the parser can be built.

    Raises:
        ConfigurationError: There is none of that name, or a setting is not one of its.
    """
    from advreg.methods import build_method
    from advreg.training.settings import MethodSettings

    parts = [file.get("method", {}) for file in files]
    named = [part["name"] for part in parts if isinstance(part, dict) and "name" in part]
    named += values_of(arguments, "method.name")
    name = named[-1] if named else MethodSettings.name
    known = ["method.name", *field_types(method_parts(name))]
    options = [option.partition("=")[0][2:].rstrip("+") for option in arguments]
    unknown = [option for option in options if option.startswith("method.")]
    unknown = [option for option in unknown if option not in known]
    if unknown and "+" in name:
        raise ConfigurationError(
            f"There is no option --{unknown[0]} with {name}; name the part, as in"
            f" --{next(iter(known[1:]), 'method.layerwise.epsilon')}."
        )
    build_method(name, **{option.removeprefix("method."): None for option in unknown})
    return name


def option_types(method: str) -> dict[str, Any]:
    """The type of every option that is a dataclass's field."""
    from advreg.training.configuration import PARTS
    from advreg.training.settings import RunSettings

    others = {part: settings for part, settings in PARTS.items() if part != "method"}
    return {
        **{field.name: field.type for field in fields(RunSettings)},
        **field_types(others),
        **field_types(method_parts(method)),
    }


def field_types(classes: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The type of every field, by its option: the class's prefix, a dot, the field's name."""
    return {
        f"{prefix}.{field.name}": field.type
        for prefix, kind in classes.items()
        for field in fields(kind)
        if field.init
    }


def parse(arguments: Sequence[str]) -> tuple[Configuration, bool]:
    """Reads the command line.

    Returns:
        The configuration, its method with the settings that were given alone, and whether to
        resume.
    """
    from advreg.training.configuration import Configuration

    files, rest = read_files(write_out(arguments))
    if "--resume" in rest:
        files = [*own_settings(rest), *files]
    method = choose_method(files, rest)
    configs = [f"--config={json.dumps(values)}" for values in files]
    options = [*configs, *complete(rest, option_types(method))]
    given = build_parser(method).parse_args(options, defaults=False).as_dict()
    given.pop("config", None)
    resume = bool(given.pop("resume", False))
    given.setdefault("method", {}).setdefault("name", method)
    return Configuration.from_dict(given), resume


def own_settings(arguments: list[str]) -> list[dict[str, Any]]:
    """The configuration in the folder of the run to be resumed, where there is one."""
    from advreg.training.folder import RunFolder

    folders = [RunFolder(path) for path in values_of(arguments, "out")]
    return [folder.configuration().to_dict() for folder in folders[-1:] if folder.config.is_file()]


def run(arguments: Sequence[str]) -> int:
    """Trains; a method without settings of its own takes the data set's tuned ones."""
    from dataclasses import replace

    from advreg.training import MethodSettings, find_recipe, train

    configuration, resume = parse(arguments)
    resumed = resume and Path(configuration.run.out, "config.yaml").is_file()
    method = configuration.method
    data, recipe = configuration.data.name, None
    if not resumed:
        recipe = find_recipe(data, method.name, method.settings)
        if recipe is None and not method.settings and method.name != "standard":
            print(f"{method.name} has not been tuned on {data}; its general defaults are used.")
    if recipe is not None:
        settings = {**recipe.settings, **method.settings}
        configuration = replace(configuration, method=MethodSettings(method.name, settings))
        print(f"Defaults of {method.name} on {data}: {recipe.settings} ({recipe.source}).")
    result = train(configuration, resume=resume)
    print(f"The run is in {result.folder}; next: advreg evaluate {result.folder}")
    return 0
