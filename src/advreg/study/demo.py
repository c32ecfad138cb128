"""The demo: ways of training on 128 digits, compared over seeds, with a study's page."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from rich.console import Console

from advreg.methods import build_method
from advreg.study.budget import STEPS
from advreg.study.compare import finish, plan, run_study
from advreg.study.definition import Study
from advreg.study.engines import Here
from advreg.study.reading import read_study, study_from

QUICK = "quick"
"""The size that shows that everything works; its figures say nothing."""


def demo_study(seeds: int = 10, quick: bool = False, methods: Sequence[str] = ()) -> Study:
    """The study of the demo.

    Args:
        seeds: Runs of each arm; they begin at 0, and nobody has tuned on these.
        quick: A shortened one.
        methods: Further arms, each a method with its recipe's or its own defaults.

    Raises:
        ConfigurationError: There is no such method, or it has settings without defaults.
    """
    for method in methods:
        build_method(method)
    size = QUICK if quick else None
    with as_file(files("advreg.study").joinpath("demo.yaml")) as path:
        values = dict(read_study(path, size).text)
    arms = values["arms"] | {method: {"method": method} for method in methods}
    return study_from({**values, "arms": arms, "seeds": seeds}, size)


def run_demo(
    out: str | os.PathLike[str] = "runs/demo",
    seeds: int = 10,
    workers: int | None = None,
    quick: bool = False,
    overwrite: bool = False,
    methods: Sequence[str] = (),
) -> Path:
    """Times, trains and attacks every arm, as far as the folder does not hold it already.

    Args:
        out: The folder that is written to.
        seeds: As of `demo_study`.
        workers: Processes; None is one a core.
        quick: As of `demo_study`.
        overwrite: Do again what the folder holds.
        methods: As of `demo_study`.

    Returns:
        The page, `study.html` in the folder.

    Raises:
        RunError: The folder cannot be written to, or every run failed.
        Interrupted: Ctrl-C; what was finished is kept, and the same call goes on.
    """
    study, folder = demo_study(seeds, quick, methods), Path(out)
    if overwrite:
        for run in plan(study):
            shutil.rmtree(run.folder(folder), ignore_errors=True)
        (folder / STEPS).unlink(missing_ok=True)
    further = ["--methods", ",".join(methods)] if methods else []
    options = [*further, *(["--quick"] if quick else []), "--seeds", str(seeds), "--out", str(out)]
    runs = plan(study, folder)
    run_study(runs, folder, engine=Here(workers))
    console = Console(highlight=False)
    found = finish(study, runs, folder, shlex.join(["advreg", "demo", *options]), console)
    return found.path.with_name("study.html")
