"""Measuring a hashing run: retrieval, its bits, and both under attack."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from advreg.errors import ConfigurationError
from advreg.files import replace_file
from advreg.hashing.bitstatistics import bit_statistics
from advreg.hashing.codes import bits_of, outputs_of
from advreg.hashing.data import HashImages, split_images
from advreg.hashing.generator.folder import GeneratorFolder
from advreg.hashing.packing import CodeFormat
from advreg.hashing.relevance import Relevance
from advreg.hashing.retrieval import evaluate_retrieval, figures, rank
from advreg.hashing.robustness import map_under_attack
from advreg.hashing.run import HashRun
from advreg.units import Number

POOL = 1000
"""Generated images whose bits are measured."""


def evaluate_run(
    run: HashRun,
    *,
    ks: Sequence[int] = (100, 1000),
    radius: int = 2,
    epsilons: Sequence[Number] = ("2/255", "8/255"),
    steps: Sequence[int] = (20, 100),
    restarts: int = 1,
    attacked: int | None = None,
    splits: Sequence[str] = (),
    seed: int = 0,
    generated: Tensor | None = None,
    report: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Retrieval figures of a run's own split, statistics of its bits, and mAP under attack.

    Args:
        run: As `load_hash_run` returns it.
        ks: Places of mAP@k and precision@k; those beyond the database are left out.
        radius: Of the precision within a Hamming ball.
        epsilons: L-infinity budgets; none leaves the attacks out.
        steps: Of the attack; each number is an attack of its own.
        restarts: Of each attack.
        attacked: Attack the first so many queries alone; None is all.
        splits: Further splits, by name, whose mAP is given too: those that have the same queries
            and training images, and another database.
        seed: Of the attacks.
        generated: (P, C, H, W) uint8 generated images to measure bits of; None is the run's own.
        report: Called with a text before each part.

    Returns:
        `split`, a sentence; `retrieval`, of `evaluate_retrieval`; `bits` of the queries and, where
        there are generated images, `generated_bits`; `attack`, of `map_under_attack`, or None;
        `splits`, the mAP on each of the further ones; `network`, the weights' content hash. Ready
        for JSON.

    Raises:
        AdvregError: The data are other ones, or a setting cannot work.
    """
    say = report or (lambda _: None)
    images, split = run.images(), run.split()
    targets, bits = images.targets, run.network.bits
    say("codes of queries and database")
    queries = outputs_of(run.network, images.images[split.query])
    layout = CodeFormat(bits)
    database = run.codes[split.database.numpy()]
    fitting = [k for k in ks if k <= len(database)]
    say("retrieval")
    retrieval = evaluate_retrieval(
        layout.pack(bits_of(queries)),
        database,
        targets[split.query],
        targets[split.database],
        bits,
        fitting,
        radius,
    )
    found = {
        "kind": "advreg hash evaluate",
        "format": 1,
        "network": run.identity,
        "split": split.describe(),
        "code": layout.describe(),
        "loss": run.configuration.loss.name,
        "method": run.configuration.method.name,
        "retrieval": retrieval,
        "bits": bit_statistics(queries),
        "generated_bits": _generated_bits(run, generated),
        "attack": None,
        "splits": {name: _other_split(run, images, name) for name in splits},
    }
    if epsilons:
        chosen = split.query if attacked is None else split.query[:attacked]
        found["attack"] = map_under_attack(
            run.network,
            images.images[chosen],
            database,
            Relevance(targets[chosen], targets[split.database]),
            bits,
            epsilons=epsilons,
            steps=steps,
            restarts=restarts,
            seed=seed,
            report=report,
        )
    return found


def _other_split(run: HashRun, images: HashImages, name: str) -> dict[str, Any]:
    """What the split is, and its mAP.

    Raises:
        ConfigurationError: Its queries or its training images are others than the run's.
    """
    own, data = run.split(), run.configuration.data
    other = split_images(images, name, query=data.query, train=data.train, seed=data.seed)
    if not (other.query.equal(own.query) and other.train.equal(own.train)):
        raise ConfigurationError(
            f"The split {name!r} has other queries or training images than {own.name!r}, in which"
            " the run was trained; train a run in it."
        )
    query, database = own.query.numpy(), other.database.numpy()
    relevance = Relevance(images.targets[own.query], images.targets[other.database])
    ranked = rank(run.codes[query], run.codes[database], relevance, run.network.bits)
    return {"split": other.describe(), "map": figures(ranked)["map"]}


def _generated_bits(run: HashRun, images: Tensor | None) -> dict[str, Any] | None:
    folder = run.configuration.generated.folder
    if images is None and folder is not None and GeneratorFolder(folder).pool.is_file():
        images = GeneratorFolder(folder).load_pool()
    return None if images is None else bit_statistics(outputs_of(run.network, images[:POOL]))


def write_evaluation(found: dict[str, Any], folder: Path) -> Path:
    """Writes `evaluation.json` into a run's folder; returns its path."""
    path = folder / "evaluation.json"
    text = json.dumps(found, indent=1, allow_nan=False)
    replace_file(path, lambda name: name.write_text(text, encoding="utf-8"))
    return path
