"""What the parts of `advreg compare` have in common."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

if TYPE_CHECKING:  # imports torch
    from advreg.study.definition import Study
    from advreg.study.engines import Engine
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
    text = (
        "Networks module:function and methods module:Class of your own that the study may import."
    )
    parser.add_argument("--trust", type=list[str], default=[], help=text)


def add_workers(parser: Parser) -> None:
    """Adds how many runs go on at a time."""
    text = "Processes; null is one for each core, or for each GPU where there are some."
    parser.add_argument("--workers", type=int | None, default=None, help=text)
    text = "Runs that share a GPU at a time."
    parser.add_argument("--per_device", type=int | None, default=None, help=text)


def add_engine(parser: Parser) -> None:
    """Adds where runs are done, and how many go on at a time."""
    add_workers(parser)
    text = "local, or ray: a task on a Ray cluster for each run."
    parser.add_argument("--engine", type=str, default="local", help=text)
    text = "Of the Ray cluster; null is RAY_ADDRESS, or else a cluster on this machine alone."
    parser.add_argument("--address", type=str | None, default=None, help=text)
    text = "What a run needs on a Ray cluster: cores."
    parser.add_argument("--cpus", type=float, default=1.0, help=text)
    text = "And GPUs; null is 1/per_device of one where the cluster has some."
    parser.add_argument("--gpus", type=float | None, default=None, help=text)


def engine_of(options: Any) -> Engine:
    """Where the runs are done.

    Raises:
        ConfigurationError: There is no such engine.
    """
    from advreg.units import choice

    choice("engine", options.engine, ("local", "ray"))
    if options.engine == "local":
        from advreg.study.engines import Here

        return Here(options.workers, options.per_device)
    from advreg.study.ray_engine import OnRay

    resources = options.cpus, options.gpus, options.per_device
    return OnRay(options.address, *resources, at_once=options.workers)


def read(options: Any) -> tuple[Study, Path | None, dict[str, str]]:
    """The study, its folder, and where its data are."""
    from advreg.study.reading import read_study

    study = read_study(options.study, options.size)
    _check_trust(study, options.trust)
    data = study.base.get("data", {})
    own = data if isinstance(data, str) else data.get("name", "digits")
    places = {}
    for given in options.data:
        name, equals, folder = given.partition("=")
        places[name if equals else own] = folder if equals else name
    return study, Path(options.out) if options.out else None, places


def _check_trust(study: Study, trusted: list[str]) -> None:
    """Refuses to import code that the file names and the command line does not.

    Raises:
        ConfigurationError: There is such code.
    """
    from advreg.models import is_own_code

    for group in study.groups:
        for arm in study.arms_of(group):
            values = study.values(group, arm)
            parts = [values.get(part, {}) for part in ("model", "method")]
            for name in (part if isinstance(part, str) else part.get("name", "") for part in parts):
                if is_own_code(name) and name not in trusted:
                    raise ConfigurationError(
                        f"The study names {name!r}, code that is not advreg's; if you trust it,"
                        f" add --trust {shlex.quote(name)}."
                    )


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
    from advreg.files import as_argument

    size = ["--size", options.size] if options.size else []
    trust = ["--trust", ",".join(options.trust)] if options.trust else []
    out = as_argument(options.out)
    return shlex.join(["advreg", "compare", options.study, *size, *trust, "--out", out])
