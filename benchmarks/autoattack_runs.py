"""AutoAttack on many test images of runs that are compared, in chunks, so that it can go on.

The images are drawn class by class with seed 0, so that all runs of the same data have the same
ones, and fewer images are the first of more. What is attacked are the weights of the last epoch,
which studies measure too. The parts of AutoAttack run as in its standard version, each on what
those before it have left. The differences are to the first label's, by paired seeds: its runs and
the others' are in the same order.

    python benchmarks/autoattack_runs.py --workers 2 --out FILE "LABEL=RUN,RUN" "LABEL=RUN,RUN" ...
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from harness import CONSOLE, count, labelled, result_file, run, save
from torch import Tensor

from advreg.attacks import Linf, autoattack
from advreg.data.images import ImageData
from advreg.errors import ConfigurationError, DataError
from advreg.files import replace_file
from advreg.study import estimate
from advreg.training import RunFolder, load_run
from advreg.training.builders import build_data
from advreg.units import non_negative

CHUNK = 125

STAGES = {"APGD pair": ("apgd-ce", "apgd-t"), "FAB": ("fab-t",), "Square": ("square",)}

Chunks = dict[str, dict[str, Any]]
"""What was found, by `LABEL|number of the run|first image to the one after the last`."""


def draw(test: ImageData, images: int) -> Tensor:
    """Rows of so many test images, the classes in turn."""
    generator = torch.Generator().manual_seed(0)
    each = [(test.targets == kind).nonzero().flatten() for kind in range(len(test.classes))]
    drawn = [rows[torch.randperm(len(rows), generator=generator)] for rows in each]
    shortest = min(map(len, drawn))
    return torch.stack([rows[:shortest] for rows in drawn], 1).flatten()[:images]


def attack(path: str, epsilon: str, first: int, end: int, stages: int) -> dict[str, Any]:
    """How many of a chunk are right after each stage, and the seconds of each."""
    torch.set_num_threads(1)
    model, configuration = load_run(path, weights="last")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    test = build_data(configuration.data).test
    rows = draw(test, end)[first:]
    inputs, targets = test.images[rows].float() / 255, test.targets[rows]
    threat = Linf(non_negative(epsilon, "epsilon"))

    @torch.no_grad()
    def right(candidates: Tensor, labels: Tensor) -> Tensor:
        return model(candidates).argmax(1) == labels

    left = right(inputs, targets)
    found: dict[str, Any] = {"images": len(rows), "correct": {"clean": int(left.sum())}}
    found["seconds"] = {}
    for stage, parts in list(STAGES.items())[:stages]:
        began = time.monotonic()
        if left.any():
            attacked = autoattack(model, inputs[left], targets[left], threat, attacks=parts)
            left[left.clone()] = right(attacked, targets[left])
        found["correct"][stage] = int(left.sum())
        found["seconds"][stage] = round(time.monotonic() - began, 1)
    return found


def summed(chunks: Chunks, label: str, runs: int) -> dict[str, Any]:
    """A label's counts and seconds, a list over its runs for each stage."""
    each = [
        [found for key, found in chunks.items() if key.startswith(f"{label}|{number}|")]
        for number in range(runs)
    ]
    return {
        "images": [sum(found["images"] for found in one) for one in each],
        **{
            part: {
                name: [round(sum(found[part][name] for found in one), 1) for one in each]
                for name in each[0][0][part]
            }
            for part in ("correct", "seconds")
        },
    }


def differences(rows: dict[str, Any]) -> dict[str, Any]:
    """Of each label and stage, the mean in percent and the paired difference to the first's."""
    first = next(iter(rows.values()))
    found: dict[str, Any] = {}
    for label, row in rows.items():
        found[label] = {}
        for stage, correct in row["correct"].items():
            shares, others = (
                [100 * right / images for right, images in zip(of, row["images"], strict=True)]
                for of in (correct, first["correct"][stage])
            )
            pairs = [mine - other for mine, other in zip(shares, others, strict=True)]
            found[label][stage] = {"mean": sum(shares) / len(shares)}
            if len(pairs) > 1 and row is not first:
                mean = estimate(pairs)
                found[label][stage]["difference"] = [mean.mean, mean.low, mean.high]
    return found


def held_chunks(partial: Path, settings: dict[str, Any]) -> Chunks:
    """What an unfinished call with the same settings has left."""
    if not partial.is_file():
        return {}
    held = json.loads(partial.read_text(encoding="utf-8"))
    if held["settings"] != settings:
        raise ConfigurationError(f"{partial} is of {held['settings']}; name another file.")
    chunks: Chunks = held["chunks"]
    return chunks


def main() -> None:
    """Attacks what is still left, and writes the figures after each chunk."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=labelled, metavar="LABEL=RUN,RUN,...")
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--images", type=count, default=1000)
    parser.add_argument("--pair", action="store_true", help="Only the two APGD attacks.")
    parser.add_argument("--workers", type=count, default=1)
    parser.add_argument("--out", type=result_file, required=True)
    options = parser.parse_args()
    runs = dict(options.runs)
    if len({len(paths) for paths in runs.values()}) > 1 or len(runs) < len(options.runs):
        raise ConfigurationError("Give each label once, and as many runs to each as to the others.")
    test = build_data(RunFolder(next(iter(runs.values()))[0]).configuration().data).test
    if len(draw(test, options.images)) < options.images:
        raise DataError(f"There are no {options.images} test images of the runs; give fewer.")
    stages = 1 if options.pair else len(STAGES)
    settings = {"epsilon": options.epsilon, "stages": stages}
    partial = options.out.with_suffix(".partial.json")
    begun = {**settings, "runs": runs}
    chunks = held_chunks(partial, begun)
    firsts = range(0, options.images, CHUNK)
    ends = [min(first + CHUNK, options.images) for first in firsts]
    tasks = {
        f"{label}|{number}|{first}-{end}": (path, options.epsilon, first, end, stages)
        for first, end in zip(firsts, ends, strict=True)
        for label, paths in runs.items()
        for number, path in enumerate(paths)
    }
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        waiting = {
            pool.submit(attack, *task): key for key, task in tasks.items() if key not in chunks
        }
        for future in as_completed(waiting):
            chunks[waiting[future]] = future.result()
            text = json.dumps({"settings": begun, "chunks": chunks})
            replace_file(partial, lambda path, text=text: path.write_text(text, encoding="utf-8"))
            CONSOLE.print(f"{waiting[future]}: {future.result()}")
    chunks = {key: chunks[key] for key in tasks}
    rows = {label: summed(chunks, label, len(paths)) for label, paths in runs.items()}
    save(options.out, settings=settings, rows=rows, estimates=differences(rows))
    partial.unlink()


if __name__ == "__main__":
    run(main)
