"""What the parts of `advreg compare` have in common."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

if TYPE_CHECKING:  # imports torch
    from advreg.study.definition import Study
    from advreg.study.runs import StudyRun


def add_study(parser: Parser, needs_out: bool = True) -> None:
    """Adds the study's file, its folder, its size and where its data are."""
    parser.add_argument("study", type=str, help="A YAML file.")
    text = "The study's folder, in which every run has its own."
    parser.add_argument("--out", type=str if needs_out else str | None, default=None, help=text)
    text = "One of the sizes in the file, such as smoke."
    parser.add_argument("--size", type=str | None, default=None, help=text)
    text = (
        "Folders of the study's data: one alone stands for those of its base, NAME=FOLDER for"
        " those that it calls so; commas between them."
    )
    parser.add_argument("--data", type=list[str], default=[], help=text)


def add_workers(parser: Parser) -> None:
    """Adds how many runs go on at a time."""
    text = "Processes; null is one for each core, or for each GPU where there are some."
    parser.add_argument("--workers", type=int | None, default=None, help=text)
    text = "Runs that share a GPU at a time."
    parser.add_argument("--per_device", type=int | None, default=None, help=text)


def read(options: Any) -> tuple[Study, Path | None, dict[str, str]]:
    """The study, its folder, and where its data are."""
    from advreg.study.definition import read_study

    study = read_study(options.study, options.size)
    data = study.base.get("data", {})
    own = data if isinstance(data, str) else data.get("name", "digits")
    places = {}
    for given in options.data:
        name, equals, folder = given.partition("=")
        places[name if equals else own] = folder if equals else name
    return study, Path(options.out) if options.out else None, places


def planned(options: Any) -> tuple[Study, list[StudyRun], Path]:
    """The study, its runs, and its folder.

    Raises:
        ConfigurationError: No folder is named.
    """
    from advreg.study.compare import plan

    if not options.out:
        raise ConfigurationError("No folder is named; name the study's with --out.")
    study, out, places = read(options)
    assert out is not None
    return study, plan(study, out, places), out


def command(options: Any) -> str:
    """What makes a study's results again; where the data are is this machine's affair."""
    size = ["--size", options.size] if options.size else []
    return shlex.join(["advreg", "compare", options.study, *size, "--out", str(options.out)])
