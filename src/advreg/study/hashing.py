"""Studies of codes: ways of training compared over seeds, with a report; the demo is one."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from advreg.errors import RunError
from advreg.files import check_folder, check_results, replace_file
from advreg.hashing.data import HashImages
from advreg.hashing.generator import GeneratorFolder
from advreg.hashing.session import load_split
from advreg.hashing.stage_one import check_generator, train_for_split
from advreg.progress import Clock, ProgressBar
from advreg.report.hashing import print_hashing, write_hashing
from advreg.study.environment import environment
from advreg.study.hashing_design import DIGITS, HashStudy, read_hash_study, slug
from advreg.study.hashing_finish import finish
from advreg.study.hashing_run import images_of, ingredients, train_and_measure
from advreg.study.plan import Row, run_arms
from advreg.study.pool import available_cores
from advreg.study.statistics import estimate, paired
from advreg.training import Interrupted
from advreg.training.builders import choose_device


def run_hash_demo(
    out: str | os.PathLike[str] = "runs/hash-demo",
    seeds: int = 10,
    workers: int | None = None,
    quick: bool = False,
    overwrite: bool = False,
    generator: str | None = None,
) -> Path:
    """Trains a generator, then every arm from every seed, and writes `results.json` and a page.

    All runs share one split and one generator: the intervals are over initial weights, order of
    the mini-batches and generated images drawn, not over data. A demo that was interrupted takes
    the runs that it has finished.

    Args:
        out: The folder that is written to.
        seeds: Runs of each arm.
        workers: Processes; None is one a core.
        quick: A shortened demo, to see that everything works.
        overwrite: Replace the results that the folder holds.
        generator: What `advreg hash generate --data digits` left; None trains one.

    Returns:
        The page, `report.html` in the folder.

    Raises:
        RunError: The folder holds results already, or no seed was finished.
        StateError: The generator was trained on other images.
        Interrupted: Ctrl-C; the results of the seeds that were finished have been written.
    """
    folder, study = Path(out), replace(DIGITS, seeds=seeds)
    check_results(folder, "results.json", overwrite)
    if overwrite:
        for part in ("rows", "runs"):
            shutil.rmtree(folder / part, ignore_errors=True)
    command = ["advreg", "hash", "demo", "--seeds", str(seeds), "--out", str(out)]
    return _run(study, folder, command, workers, quick, generator)


def run_hash_study(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    workers: int | None = None,
    quick: bool = False,
    data: str | None = None,
    generator: str | None = None,
    device: str = "cpu",
) -> Path:
    """Runs what is left of a study of codes, and writes `results.json` and a page.

    Args:
        path: The study's file.
        out: Its folder: a new one, or one in which it was begun.
        workers: Processes; None is one a core.
        quick: Shortened, to see that everything works.
        data: Where the images are, instead of what the file names.
        generator: What `advreg hash generate` left; None trains one.
        device: cpu, cuda or auto, of trainings and attacks.

    Returns:
        The page, `report.html` in the folder.

    Raises:
        AdvregError: The study, its data or its folder cannot work, or no seed was finished.
        Interrupted: Ctrl-C; what was finished is kept.
    """
    study, folder = read_hash_study(path), Path(out)
    check_folder(folder)
    if data is not None:
        named = {**study.base.get("data", {}), "name": data}
        study = replace(study, base={**study.base, "data": named})
    study = replace(study, device=str(choose_device(device)))
    command = ["advreg", "hash", "compare", str(path), "--out", str(out)]
    return _run(study, folder, command, workers, quick, generator)


def _run(
    study: HashStudy,
    folder: Path,
    command: Sequence[str],
    workers: int | None,
    quick: bool,
    given: str | None,
) -> Path:
    began, console = time.perf_counter(), Console(highlight=False)
    study = study.shortened() if quick else study
    plan = study.plan()
    console.print(
        f"A generator, then {len(study.runs())} runs, {workers or available_cores()} at a time."
    )
    folder.mkdir(parents=True, exist_ok=True)
    source = generator_of(study, folder, given, console)
    work = work_of(study, folder, source)
    runs = study.runs()
    with ProgressBar(console, "training and measuring") as bar:
        clock = Clock(bar)
        outcome = run_arms(
            runs,
            work,
            workers,
            lambda done, total, _: clock.at(done, total, f"{done} of {total} runs"),
        )
    lengths = [row for row in outcome.rows if row["bits"] != study.length]
    rows = [row for row in outcome.rows if row["bits"] == study.length]
    rows = whole_seeds(rows, len(plan.arms))
    if outcome.interrupted and not rows:
        raise Interrupted("Interrupted before a seed was finished; start again to go on.")
    if not rows:
        failure = outcome.failures[0]
        raise RunError(
            f"No seed was finished: {failure.arm}, seed {failure.seed}, failed with"
            f" {failure.reason}; mend that and start again."
        )
    results = {
        "kind": "advreg hash demo",
        "format": 1,
        "title": study.title,
        "lead": study.lead,
        "command": shlex.join(command),
        "quick": quick,
        "interrupted": outcome.interrupted,
        "study": study.to_dict(),
        "scale": {
            "bits": study.length,
            "epochs": study.epochs,
            **asdict(study.evaluation),
        },
        "split": rows[0]["split"],
        "seeds": sorted({row["seed"] for row in rows}),
        "arms": [asdict(arm) for arm in plan.arms],
        "generator": source.read_metrics(),
        "summary": {arm.label: summarise(rows, arm.label, plan.arms[0].label) for arm in plan.arms},
        "failures": [asdict(failure) for failure in outcome.failures],
        "rows": rows,
        "lengths": lengths,
        "pictures": _pictures(source, folder / "pictures", list(study.arms)),
        "environment": environment(),
        "seconds": time.perf_counter() - began,
    }
    return finish(folder, results, write_hashing, print_hashing, console, len(runs))


def work_of(study: HashStudy, folder: Path, source: GeneratorFolder) -> Callable[..., Row]:
    """What does a run of a study: takes its arm and its seed, gives its row."""
    return partial(
        train_and_measure,
        study=study,
        generator=str(source.path),
        folder=str(folder),
        made_from=ingredients(_images(study), source),
    )


def _images(study: HashStudy) -> HashImages:
    data = study.configuration(study.plan().arms[0], 0, "", "unused").data
    return images_of(data.name, data.download)


def generator_of(
    study: HashStudy, folder: Path, given: str | None, console: Console
) -> GeneratorFolder:
    """The generator that is named, or one trained in the study's folder."""
    drawn = study.configuration(study.plan().arms[0], 0, "", "unused")
    images, split = load_split(drawn, _images(study))
    if given is not None:
        found = GeneratorFolder(given)
        check_generator(found, split)
        found.load_pool()
        return found
    settings = study.settings_of_generator()
    with ProgressBar(console, "training the generator") as bar:
        clock = Clock(bar)
        result = train_for_split(
            images,
            split,
            settings,
            folder / "generator",
            pool=study.pool,
            resume=True,
            device=study.device,
            report=lambda step, _: clock.at(step, settings.steps, "training the generator"),
        )
    return result.folder


def _pictures(source: GeneratorFolder, pictures: Path, labels: list[str]) -> dict[str, str]:
    """Copies the generator's pictures beside the others; their names by title, for the page."""
    grids = sorted((source.path / "samples").glob("*.png"))
    chosen = {"Generated, early": grids[0], "Generated, at the end": grids[-1]}
    chosen["Generated images above their nearest training images"] = source.path / "nearest.png"
    named = {}
    for number, (title, path) in enumerate(chosen.items()):
        copy, contents = pictures / f"generator-{number}.png", path.read_bytes()
        replace_file(copy, lambda name, contents=contents: name.write_bytes(contents))  # type: ignore[misc]
        named[title] = copy.name
    return {**named, **{label: f"rows-{slug(label)}.png" for label in labels}}


def whole_seeds(rows: list[Row], arms: int) -> list[Row]:
    """The rows of the seeds from which every arm was trained, so that all are compared alike."""
    counts = Counter(row["seed"] for row in rows)
    return [row for row in rows if counts[row["seed"]] == arms]


def summarise(rows: list[Row], label: str, baseline: str) -> dict[str, Any]:
    """Every figure of an arm: its mean over seeds, and the paired difference to the baseline.

    With one seed there are no intervals: both are None.
    """
    figures = ["map", "optimistic", "pessimistic", "deephash_pytorch", "precision_within"]
    figures += ["entropy", "generated_entropy", *rows[0]["splits"], *rows[0]["attack"]]

    def by_seed(arm: str, figure: str) -> dict[int, float]:
        return {
            row["seed"]: {**row, **row["splits"], **row["attack"]}[figure]
            for row in rows
            if row["arm"] == arm
        }

    summary = {}
    for figure in figures:
        values, others = by_seed(label, figure), by_seed(baseline, figure)
        several = len(values) > 1
        summary[figure] = {
            "mean": sum(values.values()) / len(values),
            "estimate": asdict(estimate(list(values.values()))) if several else None,
            "difference": (
                asdict(estimate(paired(values, others))) if several and label != baseline else None
            ),
        }
    return summary
