"""`advreg hash train`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from advreg.cli.parsing import Parser, values_of, write_out
from advreg.cli.train import check_kept, choose_method, explain, method_parts, read_files

if TYPE_CHECKING:  # imports torch
    from advreg.hashing.settings import HashConfiguration

LEFT_OUT = {"monitor", "devices", "strategy"}
"""Settings of every run that hashing has no option for."""

EXAMPLES = """\
examples:
  Codes of 16 bits of the digits that come with scikit-learn, by triplets:
    advreg hash train --data digits --out runs/codes

  With generated images on which the bits are drawn to be undecided:
    advreg hash generate --data digits --out runs/generator
    advreg hash train --data digits --generated.folder runs/generator --out runs/generated

  With layerwise perturbations; with both, and another loss:
    advreg hash train --data digits --method layerwise --method.epsilon 0.1 --out runs/layerwise
    advreg hash train --data digits --method layerwise --method.epsilon 0.1 --loss dtsh \\
        --generated.folder runs/generator --out runs/both

  48 bits of CIFAR-10 in the split of the published tables:
    advreg hash train --data cifar10 --data.split cifar10-1 --data.augment crop_flip \\
        --model resnet20 --code.bits 48 --epochs 60 --out runs/cifar10

  Go on after an interrupt; then measure the result:
    advreg hash train --out runs/codes --resume
    advreg hash evaluate runs/codes

--loss NAME and --method NAME decide which --loss.* and --method.* settings there are:
  advreg hash train --loss triplet --help
"""


def build_parser(method: str = "standard", loss: str = "triplet") -> Parser:
    """The parser for a run under one method and one loss: their settings are options."""
    from advreg.hashing.losses import LOSSES
    from advreg.hashing.settings import RATES, HashConfiguration
    from advreg.methods import METHODS
    from advreg.training.settings import RunSettings

    parser = Parser(
        prog="advreg hash train",
        description="Trains a network from images to binary codes into a run folder.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--config", action="config", help="A YAML file; options win over it.")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="Go on with the run in --out, with its own settings; start it where there is none.",
    )
    run = parser.add_argument_group("run")
    run.add_class_arguments(RunSettings, as_group=False, skip=LEFT_OUT)
    for part, settings in HashConfiguration.parts.items():
        group = parser.add_argument_group(part)
        if part == "method":
            text = f"One of {', '.join(METHODS)}; or package.module:Class of one's own."
            group.add_argument("--method.name", type=str, default=method, help=text)
            for prefix, kind in method_parts(method).items():
                group.add_class_arguments(kind, prefix, as_group=False)
                explain(parser, kind, prefix)
        elif part == "loss":
            text = f"One of {', '.join(LOSSES)}."
            group.add_argument("--loss.name", type=str, default=loss, help=text)
            group.add_class_arguments(
                LOSSES[loss], "loss", as_group=False, skip={"bits", "classes"}
            )
        else:
            skipped = {"label_smoothing"} if part == "optimizer" else set()
            group.add_class_arguments(settings, part, as_group=False, skip=skipped)
    parser.set_defaults({"optimizer.name": "adamw", "optimizer.learning_rate": RATES["adamw"]})
    return parser


def choose_loss(files: list[dict[str, Any]], arguments: list[str]) -> str:
    """The loss that is meant, needed before the parser can be built.

    Raises:
        ConfigurationError: There is none of that name, or a setting is not one of its.
    """
    from advreg.hashing.losses import LOSSES, build_loss
    from advreg.hashing.settings import LossSettings

    parts = [file.get("loss", {}) for file in files]
    names = [part["name"] for part in parts if isinstance(part, dict) and "name" in part]
    name = str([LossSettings.name, *names, *values_of(arguments, "loss.name")][-1])
    options = [option.partition("=")[0][2:] for option in arguments]
    given = [option.removeprefix("loss.") for option in options if option.startswith("loss.")]
    known = _settings_of(name) if name in LOSSES else []
    unknown = {option: None for option in given if option != "name" and option not in known}
    if name not in LOSSES or unknown:
        build_loss(name, 8, 2, **unknown)  # says so
    return name


def _settings_of(loss: str) -> list[str]:
    import inspect

    from advreg.hashing.losses import LOSSES

    return [*inspect.signature(LOSSES[loss]).parameters][2:]


def parse(arguments: Sequence[str]) -> tuple[HashConfiguration, bool]:
    """Reads the command line.

    Returns:
        The configuration, and whether to resume.
    """
    from advreg.cli.train import check_model
    from advreg.hashing.run import HashRunFolder
    from advreg.hashing.settings import HashConfiguration

    files, rest = read_files(write_out(arguments), HashConfiguration.parts)
    if "--resume" in rest:
        folders = [HashRunFolder(path) for path in values_of(rest, "out")]
        own = [folder.configuration().to_dict() for folder in folders if folder.config.is_file()]
        for part in ("method", "loss"):
            check_kept(part, own, rest)
        files = [*own, *files]
    method, loss = choose_method(files, rest, "standard"), choose_loss(files, rest)
    check_model(files, rest)
    configs = [f"--config={json.dumps(_readable(values), default=str)}" for values in files]
    given = build_parser(method, loss).read([*configs, *rest], defaults=False).as_dict()
    given.pop("config", None)
    resume = bool(given.pop("resume", False))
    for part, name in (("method", method), ("loss", loss)):
        if isinstance(given.setdefault(part, {}), dict):  # else the configuration refuses it
            given[part].setdefault("name", name)
    return HashConfiguration.from_dict(given), resume


def _readable(values: dict[str, Any]) -> dict[str, Any]:
    """A file's values without the settings that every run has and hashing has no option for."""
    kept = {name: value for name, value in values.items() if name not in LEFT_OUT}
    if isinstance(kept.get("optimizer"), dict):
        kept["optimizer"] = {
            name: value for name, value in kept["optimizer"].items() if name != "label_smoothing"
        }
    return kept


def run(arguments: Sequence[str]) -> int:
    """Trains a hash network."""
    from advreg.cli.train import describe_origins
    from advreg.hashing.run import HashRunFolder, resolved, train_hash

    given, resume = parse(arguments)
    configuration = resolved(given)
    if not (resume and HashRunFolder(given.run.out).config.is_file()):
        for line in describe_origins(configuration, given):
            print(line)
    result = train_hash(configuration, resume=resume)
    print(HashRunFolder(result.folder).finished())
    return 0
