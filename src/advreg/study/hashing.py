"""The hashing demo: ways of training codes of digits, compared over seeds, with a report."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from advreg.errors import CollapseWarning, RunError
from advreg.files import check_results, replace_file
from advreg.hashing.codes import bits_of, outputs_of
from advreg.hashing.evaluation import evaluate_run
from advreg.hashing.gallery import draw_results, index_split
from advreg.hashing.generator import GeneratorFolder, GeneratorSettings, train_generator
from advreg.hashing.run import HashRun, load_hash_run, train_hash
from advreg.hashing.session import check_generator, load_split, train_fingerprint
from advreg.hashing.settings import HashConfiguration
from advreg.progress import Clock, ProgressBar
from advreg.report.hashing import print_hashing, write_hashing
from advreg.study.environment import environment
from advreg.study.finish import finish
from advreg.study.plan import Arm, Plan, Row, run_plan
from advreg.study.pool import available_cores
from advreg.study.statistics import estimate, paired
from advreg.training import Interrupted

TITLE = "What generated images and layerwise perturbations do to codes of digits"

PLAIN = "Triplet"
GENERATED = "With generated images"
_LAYERWISE = {"sites": ["input"], "epsilon": 0.1}

ARMS = (
    Arm(PLAIN, "standard"),
    Arm(GENERATED, "standard", {"generated": True}),
    Arm("With layerwise", "layerwise", _LAYERWISE),
    Arm("With both", "layerwise", {**_LAYERWISE, "generated": True}),
    Arm("With dropout", "dropout", {"p": 0.3}),
)
"""`generated` says whether the mini-batches hold generated images; the rest is the method's."""

SHOWN = 6
"""Queries whose nearest images are shown, and `NEAREST` of each."""
NEAREST = 10


@dataclass(frozen=True)
class HashScale:
    """How large the demo is.

    Args:
        bits: Of a code.
        epochs: Of each training.
        generator_steps: Of the generator's training.
        epsilons: L-infinity budgets of the attacks.
        steps: Of the attacks.
        attacked: Queries that are attacked, the first so many; None is all.
    """

    bits: int = 16
    epochs: int = 20
    generator_steps: int = 1500
    epsilons: tuple[str, ...] = ("8/255", "0.1")
    steps: int = 20
    attacked: int | None = None


QUICK = HashScale(epochs=4, generator_steps=60, steps=5, attacked=50)


def configuration(arm: Arm, seed: int, scale: HashScale, generator: str, out: str) -> Any:
    """The run of one arm from one seed."""
    settings = dict(arm.settings)
    generated = settings.pop("generated", False)
    return HashConfiguration.from_dict(
        {
            "out": out,
            "epochs": scale.epochs,
            "batch_size": 64,
            "seed": seed,
            "tensorboard": False,
            "device": "cpu",
            "code": {"bits": scale.bits},
            "method": {"name": arm.method, **settings},
            "generated": {"folder": generator if generated else None},
        }
    )


def train_and_measure(arm: Arm, seed: int, scale: HashScale, generator: str, pictures: str) -> Row:
    """One run, ready for JSON; the first seed's also draws what its queries find."""
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        result = train_hash(configuration(arm, seed, scale, generator, f"{out}/run"), quiet=True)
        run = load_hash_run(result.folder)
        found = evaluate_run(
            run,
            ks=(100,),
            epsilons=scale.epsilons,
            steps=(scale.steps,),
            attacked=scale.attacked,
            generated=GeneratorFolder(generator).load_pool(),
        )
        if seed == 0:
            _draw_rows(run, Path(pictures, f"rows-{_slug(arm.label)}.png"))
    retrieval, attacks = found["retrieval"], found["attack"]["attacks"]
    return {
        "split": found["split"],
        "map": retrieval["map"]["expected"],
        "optimistic": retrieval["map"]["optimistic"],
        "pessimistic": retrieval["map"]["pessimistic"],
        "deephash_pytorch": retrieval["map"]["deephash_pytorch"],
        "precision_within": retrieval["precision_within"]["precision"],
        "curve": retrieval["curve"],
        "attack": {attack["epsilon"]: attack["map"] for attack in attacks},
        "masked": [attack["masked"] for attack in attacks if attack["masked"]],
        "entropy": found["bits"]["entropy"],
        "generated_entropy": found["generated_bits"]["entropy"],
        "confidence": found["bits"]["confidence"],
        "generated_confidence": found["generated_bits"]["confidence"],
        "distinct_codes": found["bits"]["distinct_codes"],
    }


def _slug(label: str) -> str:
    return "-".join(label.lower().split())


def _draw_rows(run: HashRun, path: Path) -> None:
    """What the first queries of some classes find in the database."""
    images, split = run.images(), run.split()
    targets = images.targets
    first = [int(split.query[targets[split.query] == label][0]) for label in range(SHOWN)]
    index = index_split(run)
    outputs = outputs_of(run.network, images.images[first])
    found = index.search(run.network.format.pack(bits_of(outputs)), NEAREST)
    rows = [
        {
            "nearest": [
                {
                    "name": index.name(place),
                    "distance": distance,
                    "right": bool(targets[int(index.name(place))] == targets[query]),
                }
                for place, distance in zip(places, distances, strict=True)
            ]
        }
        for query, places, distances in zip(
            first, found.places.tolist(), found.distances.tolist(), strict=True
        )
    ]
    asked = images.images[first].float() / 255
    draw_results(path, lambda name: images.images[int(name)].float() / 255, asked, rows)


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
    the mini-batches and generated images drawn, not over data.

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
    began, scale = time.perf_counter(), QUICK if quick else HashScale()
    folder, console = Path(out), Console(highlight=False)
    check_results(folder, "results.json", overwrite)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    plan = Plan(ARMS, tuple(range(seeds)))
    console.print(
        f"A generator, then {len(plan.arms)} ways of training, {seeds} seeds each, in"
        f" {workers or available_cores()} processes; some minutes."
    )
    source = _generator(folder if generator is None else None, generator, scale, console)
    work = partial(
        train_and_measure, scale=scale, generator=str(source.path), pictures=str(pictures)
    )
    with ProgressBar(console, "training and measuring") as bar:
        clock = Clock(bar)
        outcome = run_plan(
            plan,
            work,
            workers,
            lambda done, total, _: clock.at(done, total, f"{done} of {total} runs"),
        )
    rows = whole_seeds(outcome.rows)
    if outcome.interrupted and not rows:
        raise Interrupted("Interrupted before a seed was finished; no results were written.")
    if not rows:
        failure = outcome.failures[0]
        raise RunError(
            f"No seed was finished: {failure.arm}, seed {failure.seed}, failed with"
            f" {failure.reason}; mend that and start again."
        )
    results = {
        "kind": "advreg hash demo",
        "format": 1,
        "title": TITLE,
        "command": shlex.join(["advreg", "hash", "demo", "--seeds", str(seeds), "--out", str(out)]),
        "quick": quick,
        "interrupted": outcome.interrupted,
        "scale": asdict(scale),
        "split": rows[0]["split"],
        "seeds": sorted({row["seed"] for row in rows}),
        "arms": [asdict(arm) for arm in plan.arms],
        "generator": source.read_metrics()[-1],
        "summary": {arm.label: summarise(rows, arm.label) for arm in plan.arms},
        "failures": [asdict(failure) for failure in outcome.failures],
        "rows": rows,
        "pictures": _pictures(source, pictures),
        "environment": environment(),
        "seconds": time.perf_counter() - began,
    }
    total = len(plan.arms) * len(plan.seeds)
    return finish(folder, results, write_hashing, print_hashing, console, total)


def _generator(
    folder: Path | None, given: str | None, scale: HashScale, console: Console
) -> GeneratorFolder:
    """The generator that is named, or one trained in the demo's folder."""
    drawn = configuration(ARMS[0], 0, scale, "", "unused")
    images, split = load_split(drawn)
    if folder is None:
        found = GeneratorFolder(str(given))
        check_generator(found, split)
        found.load_pool()
        return found
    settings = GeneratorSettings(steps=scale.generator_steps)
    with ProgressBar(console, "training the generator") as bar:
        clock = Clock(bar)
        result = train_generator(
            images.images[split.train],
            settings,
            folder / "generator",
            pool=2000,
            facts={"data": "digits", "split": split.name, "train_images": train_fingerprint(split)},
            resume=True,
            report=lambda step, _: clock.at(step, settings.steps, "training the generator"),
        )
    return result.folder


def _pictures(source: GeneratorFolder, pictures: Path) -> dict[str, str]:
    """Copies the generator's pictures beside the others; their names by title, for the page."""
    grids = sorted((source.path / "samples").glob("*.png"))
    chosen = {"Generated, early": grids[0], "Generated, at the end": grids[-1]}
    chosen["Generated images above their nearest training images"] = source.path / "nearest.png"
    named = {}
    for number, (title, path) in enumerate(chosen.items()):
        copy, contents = pictures / f"generator-{number}.png", path.read_bytes()
        replace_file(copy, lambda name, contents=contents: name.write_bytes(contents))  # type: ignore[misc]
        named[title] = copy.name
    for arm in ARMS:
        named[arm.label] = f"rows-{_slug(arm.label)}.png"
    return named


def whole_seeds(rows: list[Row]) -> list[Row]:
    """The rows of the seeds from which every arm was trained, so that all are compared alike."""
    counts = Counter(row["seed"] for row in rows)
    return [row for row in rows if counts[row["seed"]] == len(ARMS)]


def summarise(rows: list[Row], label: str) -> dict[str, Any]:
    """Every figure of an arm: its mean over seeds, and the paired difference to the first arm.

    With one seed there are no intervals: both are None.
    """
    epsilons = list(rows[0]["attack"])
    figures = ["map", "optimistic", "pessimistic", "deephash_pytorch", "precision_within"]
    figures += ["entropy", "generated_entropy"]

    def by_seed(arm: str, figure: str) -> dict[int, float]:
        found = [row for row in rows if row["arm"] == arm]
        return {row["seed"]: row["attack"].get(figure, row.get(figure)) for row in found}

    summary = {}
    for figure in (*figures, *epsilons):
        values, baseline = by_seed(label, figure), by_seed(PLAIN, figure)
        several = len(values) > 1
        summary[figure] = {
            "mean": sum(values.values()) / len(values),
            "estimate": asdict(estimate(list(values.values()))) if several else None,
            "difference": (
                asdict(estimate(paired(values, baseline))) if several and label != PLAIN else None
            ),
        }
    return summary
