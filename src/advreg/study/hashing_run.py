"""One run of a study of codes, from nothing or from where a kill left it, to its row."""

from __future__ import annotations

import logging
import shutil
import warnings
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from advreg.errors import CollapseWarning, MaskedAttackWarning
from advreg.evaluation.identity import content_hash
from advreg.hashing.codes import bits_of, outputs_of
from advreg.hashing.data import HashImages, load_images
from advreg.hashing.evaluation import evaluate_run
from advreg.hashing.gallery import draw_results, index_split
from advreg.hashing.generator import GeneratorFolder
from advreg.hashing.run import HashRun, load_hash_run, train_hash
from advreg.study.files import read_json, write_json
from advreg.study.hashing_design import HashStudy, slug
from advreg.study.plan import Arm, Row
from advreg.study.pool import stops_by_itself

SHOWN = 6
"""Queries whose nearest images are shown, and `NEAREST` of each."""
NEAREST = 10


@lru_cache(maxsize=1)
def images_of(source: str, download: bool) -> HashImages:
    """All images of a source; kept, since the next run's are the same."""
    return load_images(source, download)


def ingredients(images: HashImages, generator: GeneratorFolder) -> str:
    """A hash of what all runs of a study are made from: its images and its generator."""
    weights = generator.load(generator.weights)["generator"]
    own = {"images": images.images, "targets": images.targets}
    return content_hash({**weights, **own}) + f"-{len(generator.load_pool())}"


def train_and_measure(
    arm: Arm, seed: int, study: HashStudy, generator: str, folder: str, made_from: str
) -> Row:
    """One run, ready for JSON; the first seed's also draws what its queries find.

    A row that the folder holds is taken where its settings and what it is made from are the same;
    a run that was begun is finished.

    Args:
        arm: The arm.
        seed: Of the run.
        study: What it belongs to.
        generator: The generator's folder.
        folder: The study's folder.
        made_from: Of `ingredients`.
    """
    bits = study.configuration(arm, seed, generator, "unused").code.bits
    name = f"{slug(arm.label)}-{bits}-{seed}"
    path, out = Path(folder, "rows", f"{name}.json"), Path(folder, "runs", name)
    settings = {**_settings(arm, seed, study), "made_from": made_from}
    kept = read_json(path)
    if kept is not None and kept["settings"] == settings:
        row: Row = kept["row"]
        return row
    configuration = study.configuration(arm, seed, generator, str(out))
    images = images_of(configuration.data.name, configuration.data.download)
    logging.disable(logging.INFO)  # Lightning announces its precision in every run
    with warnings.catch_warnings():
        for kind in (CollapseWarning, MaskedAttackWarning):  # both are in the row
            warnings.simplefilter("ignore", kind)
        with stops_by_itself():
            result = train_hash(configuration, images=images, resume=True, quiet=True)
        run = load_hash_run(out, images=images)
        run.network.to(study.device)
        row = {"bits": bits, **_measured(run, study, generator)}
    row["seconds"] = sum(line["seconds"] for line in result.metrics)
    if seed == 0 and bits == study.length:
        _draw_rows(run, Path(folder, "pictures", f"rows-{slug(arm.label)}.png"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": settings, "row": row})
    shutil.rmtree(out)
    return row


def _settings(arm: Arm, seed: int, study: HashStudy) -> dict[str, Any]:
    """Of what a row is known by, what the study says: no path, for data may be moved."""
    base = {**study.base, "data": {**study.base.get("data", {}), "name": None}}
    evaluation = {
        name: list(v) if isinstance(v, tuple) else v for name, v in asdict(study.evaluation).items()
    }
    return {
        "base": base,
        "arm": arm.settings,
        "seed": seed,
        "generator": study.generator,
        "evaluation": evaluation,
    }


def _measured(run: HashRun, study: HashStudy, generator: str) -> Row:
    wanted = study.evaluation
    found = evaluate_run(
        run,
        ks=(100,),
        epsilons=wanted.epsilons,
        steps=(wanted.steps,),
        attacked=wanted.attacked,
        splits=wanted.splits,
        generated=GeneratorFolder(generator).load_pool(),
    )
    retrieval, attacks = found["retrieval"], found["attack"]["attacks"]
    return {
        "split": found["split"],
        "map": retrieval["map"]["expected"],
        "optimistic": retrieval["map"]["optimistic"],
        "pessimistic": retrieval["map"]["pessimistic"],
        "deephash_pytorch": retrieval["map"]["deephash_pytorch"],
        "precision_within": retrieval["precision_within"]["precision"],
        "curve": retrieval["curve"],
        "splits": {name: part["map"]["expected"] for name, part in found["splits"].items()},
        "attack": {attack["epsilon"]: attack["map"] for attack in attacks},
        "noise": {attack["epsilon"]: attack["noise_map"] for attack in attacks},
        "clean_of_attacked": found["attack"]["clean"],
        "masked": [attack["masked"] for attack in attacks if attack["masked"]],
        "entropy": found["bits"]["entropy"],
        "generated_entropy": found["generated_bits"]["entropy"],
        "confidence": found["bits"]["confidence"],
        "generated_confidence": found["generated_bits"]["confidence"],
        "distinct_codes": found["bits"]["distinct_codes"],
    }


def _draw_rows(run: HashRun, path: Path) -> None:
    """What the first queries of some classes find in the database."""
    images, split = run.images(), run.split()
    targets = images.targets
    shown = targets[split.query].unique()[:SHOWN].tolist()
    first = [int(split.query[targets[split.query] == label][0]) for label in shown]
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
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_results(path, lambda name: images.images[int(name)].float() / 255, asked, rows)
