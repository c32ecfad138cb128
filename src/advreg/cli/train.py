"""`advreg train`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.cli.parsing import Parser, values_of, write_out
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

  A method of one's own, the class Mine in methods.py in this folder, with its settings:
    advreg train --data digits --method methods:Mine --method.epsilon 0.1 --out runs/mine

  A network of one's own, from the function net in mine.py in this folder; images arrive in
  [0, 1], and a function that takes num_classes is given their number:
    advreg train --data photos --model mine:net --model.args.width 32 --out runs/own
    advreg evaluate runs/own --model mine:net

  By what matters to you, where the data set has recipes: here each example's memory, accumulated:
    advreg train --data cifar10 --model resnet20 --goal robustness --out runs/robust

  From a file, some of it changed; go on after an interrupt; then measure the result:
    advreg train --config runs/plain/config.yaml --seed 1 --out runs/plain-1
    advreg train --out runs/plain-1 --resume
    advreg evaluate runs/plain-1

--method NAME decides which --method.* settings there are:
  advreg train --method fgsm --help
"""


def read_files(
    arguments: list[str], parts: Mapping[str, Any] | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Takes `--config FILE` out of the arguments and reads the files.

    Args:
        arguments: In their long form.
        parts: Of the configuration; a classifier's by default.

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
            index = rest.index("--config")
            del rest[index : index + 2]
    files = [read_yaml(path) for path in paths]
    for values in files:
        for part in (parts or PARTS).keys() & values.keys():
            if isinstance(values[part], str):
                values[part] = {"name": values[part]}
    return files, rest


def build_parser(method: str = "layerwise") -> Parser:
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
        "--goal",
        type=str,
        help="accuracy or robustness: of a known data set's recipes for the method, the one that"
        " was chosen by it; without it the one that was chosen by both.",
    )
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
            text = (
                f"One of {names}; layerwise+mixup, layerwise+sam, layerwise+pgd, layerwise+awp;"
                " awp with another that attacks, as in pgd+awp; or package.module:Class of one's"
                " own."
            )
            group.add_argument("--method.name", type=str, default=method, help=text)
            for prefix, kind in method_parts(method).items():
                group.add_class_arguments(kind, prefix, as_group=False)
                explain(parser, kind, prefix)
        else:
            group.add_class_arguments(settings, part, as_group=False)
    return parser


def explain(parser: Parser, kind: type[Method], prefix: str) -> None:
    """Gives options of inherited settings the help that is in a base class's docstring."""
    from docstring_parser import parse as parse_docstring

    for base in kind.__mro__:
        for setting in parse_docstring(base.__doc__ or "").params:
            action = parser._option_string_actions.get(f"--{prefix}.{setting.arg_name}")
            if action is not None and not action.help:
                action.help = setting.description


def method_parts(name: str) -> dict[str, type[Method]]:
    """The classes whose settings are options, by the options' prefix.

    Of `layerwise+mixup` these are `method.layerwise` and `method.mixup`.

    Raises:
        ConfigurationError: There is no such method.
    """
    from advreg.methods import method_class

    if "+" not in name:
        return {"method": method_class(name)}
    return {f"method.{part}": method_class(part) for part in name.split("+")}


def choose_method(
    files: list[dict[str, Any]], arguments: list[str], default: str | None = None
) -> str:
    """The method that is meant, needed before the parser can be built.

    Args:
        files: The values of configuration files.
        arguments: In their long form.
        default: Where none is named; a classifier's by default.

    Raises:
        ConfigurationError: There is none of that name, a setting is not one of its, or it is
            somebody's own code that the arguments themselves do not name.
    """
    from advreg.methods import build_method, settings_of
    from advreg.training.settings import MethodSettings

    parts = [file.get("method", {}) for file in files]
    names = [part["name"] for part in parts if isinstance(part, dict) and "name" in part]
    given = values_of(arguments, "method.name")
    name = str([default or MethodSettings.name, *names, *given][-1])
    if ":" in name and name not in given:
        raise ConfigurationError(
            f"The configuration names the method {name!r}, code that is not advreg's; if you trust"
            f" it, add --method {shlex.quote(name)}."
        )
    known = ["method.name"]
    for prefix, kind in method_parts(name).items():
        known += [f"{prefix}.{setting}" for setting in settings_of(kind)]
    options = [option.partition("=")[0][2:].rstrip("+") for option in arguments]
    unknown = [option for option in options if option.startswith("method.")]
    unknown = [option for option in unknown if option not in known]
    if unknown and "+" in name:
        raise ConfigurationError(
            f"There is no option --{unknown[0]} with {name}; name the part, as in"
            f" --{next(iter(known[1:]), 'method.layerwise.epsilon')}."
        )
    if unknown:
        build_method(name, **{option.removeprefix("method."): None for option in unknown})
    return name


def check_model(files: list[dict[str, Any]], arguments: list[str]) -> None:
    """Refuses a network of somebody's own code that the arguments themselves do not name.

    Args:
        files: The values of configuration files.
        arguments: In their long form.

    Raises:
        ConfigurationError: A file names one.
    """
    from advreg.models import check_trusted

    given = values_of(arguments, "model.name")
    parts = [file.get("model", {}) for file in files]
    for name in [part["name"] for part in parts if isinstance(part, dict) and "name" in part]:
        if not given:
            check_trusted(str(name), None)


def parse(arguments: Sequence[str]) -> tuple[Configuration, str | None, bool]:
    """Reads the command line.

    Returns:
        The configuration, its method with the settings that were given alone; what its recipe is
        to be chosen by; and whether to resume.
    """
    from advreg.training.configuration import Configuration

    files, rest = read_files(write_out(arguments))
    if "--resume" in rest:
        own = own_settings(rest)
        check_kept("method", own, rest)
        files = [*own, *files]
    method = choose_method(files, rest)
    check_model(files, rest)
    configs = [f"--config={json.dumps(values, default=str)}" for values in files]
    given = build_parser(method).read([*configs, *rest], defaults=False).as_dict()
    given.pop("config", None)
    goal, resume = given.pop("goal", None), bool(given.pop("resume", False))
    if isinstance(given.setdefault("method", {}), dict):  # else the configuration refuses it
        given["method"].setdefault("name", method)
    return Configuration.from_dict(given), goal, resume


def own_settings(arguments: list[str]) -> list[dict[str, Any]]:
    """The configuration in the folder of the run to be resumed, where there is one."""
    from advreg.training.folder import RunFolder

    folders = [RunFolder(path) for path in values_of(arguments, "out")]
    return [folder.configuration().to_dict() for folder in folders[-1:] if folder.config.is_file()]


def check_kept(part: str, own: list[dict[str, Any]], arguments: list[str]) -> None:
    """Refuses to resume a run with another method, or loss, whose settings are others.

    Args:
        part: `method` or `loss`.
        own: The run's configuration, or nothing where there is no run yet.
        arguments: In their long form.

    Raises:
        ConfigurationError: The arguments name another one.
    """
    given = values_of(arguments, f"{part}.name")[-1:]
    for name in [values[part]["name"] for values in own]:
        if given and given != [name]:
            raise ConfigurationError(
                f"The run was made with --{part} {shlex.quote(name)}, and --resume keeps its"
                f" settings; leave out --{part}, or name another folder with --out."
            )


def describe_origins(
    configuration: Configuration, given: Configuration, goal: str | None = None
) -> list[str]:
    """Where the settings are from that were filled in, a line each source.

    Args:
        configuration: Resolved.
        given: As the user gave it.
        goal: What the method's recipe was to be chosen by.
    """
    values, lines = configuration.to_dict(), []
    origins = configuration.origins
    for source in dict.fromkeys(origins.values()):
        settings = []
        for option in (option for option, origin in origins.items() if origin == source):
            part, _, name = option.partition(".")
            settings.append(f"{option} {values[part][name]}")
        lines.append(f"{', '.join(settings)}: {source}.")
    method, tuned = given.method, any(option.startswith("method.") for option in origins)
    if not tuned and not method.settings and method.name != "standard":
        lines.append(f"{method.name} is not tuned on {given.data.name}; its own defaults are used.")
    elif goal and not any(origin.startswith(f"by {goal}, ") for origin in origins.values()):
        lines.append(
            f"--goal {goal} changed nothing: no recipe for {method.name} with these settings on"
            f" {given.data.name} is by {goal} alone."
        )
    return lines


def run(arguments: Sequence[str]) -> int:
    """Trains; what is usual for the data set is filled in, and said."""
    from advreg.training import resolve, train
    from advreg.training.folder import RunFolder
    from advreg.training.launch import placed

    given, goal, resume = parse(arguments)
    goes_on = resume and Path(given.run.out, "config.yaml").is_file()
    if goes_on and goal is not None:
        raise ConfigurationError(
            "--resume keeps the settings that the run was begun with; leave out --goal, or name"
            " another folder with --out."
        )
    configuration = resolve(given, goal)
    if not placed(configuration.run).first:
        train(configuration, resume=resume, quiet=True)
        return 0
    if not goes_on:
        for line in describe_origins(configuration, given, goal):
            print(line)
    result = train(configuration, resume=resume)
    print(RunFolder(result.folder).finished())
    return 0
