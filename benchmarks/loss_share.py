"""What share of an attack's rise of the loss the remembered perturbation reaches.

Of finished or stopped runs with example memory at the input alone and no augmentation: the loss of
training images, with the network in evaluation mode, rises by so much under what the memory holds,
under FGSM and under PGD-10, all with the memory's budget. The share is the memory's rise over
PGD-10's, over all images together.

    python benchmarks/loss_share.py --out FILE LABEL=RUN,RUN,... ...
"""

from __future__ import annotations

import argparse
from statistics import fmean
from typing import Any

import torch
from harness import labelled, result_file, run, save

from advreg.attacks import Linf, fgsm, pgd
from advreg.layerwise.memory import BatchInfo
from advreg.layerwise.packed import PackedWords
from advreg.methods import build_method
from advreg.models import build_model
from advreg.study import estimate
from advreg.training import RunFolder
from advreg.training.builders import build_data

IMAGES, BATCH = 1000, 250


def rises(path: str) -> dict[str, float]:
    """Of one run, by how much the mean loss rises under each perturbation."""
    folder = RunFolder(path)
    configuration, last = folder.configuration(), folder.load(folder.last)
    train = build_data(configuration.data).train
    chosen = torch.arange(min(IMAGES, len(train)))
    model = build_model(**last["architecture"])
    model.load_state_dict(last["model"])
    settings = configuration.method
    method = build_method(settings.name, **settings.settings)
    method.load_state_dict(last["method"])
    sums: dict[str, float] = {"clean": 0.0, "memory": 0.0, "fgsm": 0.0, "pgd10": 0.0}
    with method.attach(model, steps_per_epoch=1, examples=len(train)):
        (site,) = method.adversary.sites
        threat = Linf(site.epsilon)
        model.eval()
        for rows in chosen.split(BATCH):
            images, targets = train.images[rows].float() / 255, train.targets[rows]
            stored = site.calls[0].memory.read(images, BatchInfo(rows), None)
            values = stored.values() if isinstance(stored, PackedWords) else stored
            delta = site.epsilon * site.rule.factor * values.float()
            generator = torch.Generator().manual_seed(0)
            inputs = {
                "clean": images,
                "memory": (images + delta).clamp(0, 1),
                "fgsm": fgsm(model, images, targets, threat),
                "pgd10": pgd(model, images, targets, threat, steps=10, generator=generator),
            }
            for name, perturbed in inputs.items():
                with torch.no_grad():
                    loss = torch.nn.functional.cross_entropy(
                        model(perturbed), targets, reduction="sum"
                    )
                sums[name] += loss.item() / len(chosen)
    return {name: value - sums["clean"] for name, value in sums.items() if name != "clean"} | {
        "clean loss": sums["clean"],
        "epoch": last["tally"]["epoch"],
    }


def shares(runs: list[dict[str, float]]) -> dict[str, Any]:
    """The memory's rise over FGSM's and PGD's, a run each, with the mean and its interval."""
    found: dict[str, Any] = {"epoch": fmean(each["epoch"] for each in runs)}
    for other in ("fgsm", "pgd10"):
        values = [each["memory"] / each[other] for each in runs]
        found[f"memory over {other}"] = values
        if len(values) > 1:
            mean = estimate(values)
            found[f"memory over {other}, mean"] = [mean.mean, mean.low, mean.high]
    return found


def main() -> None:
    """Measures the runs of each label."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=labelled, metavar="LABEL=RUN,RUN,...")
    parser.add_argument("--out", type=result_file, required=True)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for label, paths in options.runs:
        runs = [rises(path) for path in paths]
        results[label] = {**shares(runs), "runs": runs}
        print(label, {name: value for name, value in results[label].items() if name != "runs"})
    save(options.out, images=IMAGES, results=results)


if __name__ == "__main__":
    run(main)
