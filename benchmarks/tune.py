"""Finds each method's settings on validation images, with the same effort for every method.

Every candidate is trained from the same seeds, which no reported result uses, and scored on images
kept out of training and test: the mean of clean accuracy and of PGD accuracy at one budget. The
best candidate of each method is what `advreg.training.recipes` holds.

    python benchmarks/tune.py digits --out benchmarks/results/tune_digits.json
    python benchmarks/tune.py cifar10 --data FOLDER --out benchmarks/results/tune_cifar10.json
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean, stdev
from typing import Any

from harness import arguments, result_file, run, save
from rich.console import Console

from advreg.evaluation import evaluate
from advreg.study.plan import Arm, Plan, run_plan
from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    ModelSettings,
    OptimizerSettings,
    RunSettings,
    load_run,
    train,
)
from advreg.training.builders import build_data

FIRST_SEED = 1000


@dataclass(frozen=True)
class Setting:
    """What is tuned on.

    Args:
        data: Name or folder.
        model: Of `advreg.models`.
        train_images: Drawn again for each seed.
        validation_images: Likewise, disjoint from them.
        epochs: Of each training.
        batch_size: Of each training.
        learning_rate: The peak of the one-cycle schedule.
        epsilon: The budget of the attack that scores.
        seeds: Trainings of each candidate.
    """

    data: str
    model: str
    train_images: int
    validation_images: int
    epochs: int
    batch_size: int
    learning_rate: float
    epsilon: str
    seeds: int


SETTINGS = {
    "digits": Setting("digits", "convnet", 128, 400, 40, 64, 0.1, "0.1", 6),
    "cifar10": Setting("cifar10", "resnet20", 2000, 500, 10, 128, 0.2, "2/255", 1),
}

INPUT = {"sites": ["input"]}
EXAMPLE = {"memory": "example"}
DROPOUT = [{"p": p} for p in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]

CANDIDATES: dict[str, dict[str, tuple[str, list[dict[str, Any]]]]] = {
    "digits": {
        "dropout": ("dropout", DROPOUT),
        "fgsm": ("fgsm", [{"epsilon": e} for e in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)]),
        "layerwise": (
            "layerwise",
            [{**INPUT, "epsilon": e} for e in (0.1, 0.2, 0.3)]
            + [{"epsilon": {"input": e, "blocks.*": h}} for e, h in ((0.1, 0.1), (0.2, 0.05))]
            + [{"epsilon": 0.4, "budget_split": "sum"}],
        ),
        "layerwise, example memory": (
            "layerwise",
            [
                {**EXAMPLE, "epsilon": 0.2, "warmup_epochs": warmup, "step_size": step_size}
                for warmup in (0.0, 10.0, 20.0)
                for step_size in (None, 0.1)
            ],
        ),
    },
    "cifar10": {
        "dropout": ("dropout", DROPOUT[1::2]),
        "fgsm": ("fgsm", [{"epsilon": f"{e}/255"} for e in (2, 4, 8)]),
        "layerwise": (
            "layerwise",
            [
                {**INPUT, "epsilon": "8/255"},
                {"sites": ["layer*.*"], "epsilon": 0.05},
                {"epsilon": {"input": "4/255", "layer*.*": 0.05}},
            ],
        ),
        "layerwise, example memory": (
            "layerwise",
            [
                {**EXAMPLE, "epsilon": f"{e}/255", "step_size": f"{a}/255", "start": "random"}
                for e, a in ((4, 5), (8, 10), (8, 4))
            ],
        ),
    },
}


def score(arm: Arm, seed: int, *, setting: Setting) -> dict[str, Any]:
    """Trains one candidate and measures it on the validation images."""
    data = DataSettings(
        setting.data,
        limit=setting.train_images,
        validation=setting.validation_images,
        seed=seed,
        augment="crop_flip" if setting.model == "resnet20" else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunSettings(
            out=f"{folder}/run",
            epochs=setting.epochs,
            batch_size=setting.batch_size,
            seed=seed,
            device="cpu",
            tensorboard=False,
        )
        configuration = Configuration(
            run,
            data,
            ModelSettings(setting.model),
            MethodSettings(arm.method, arm.settings),
            OptimizerSettings(learning_rate=setting.learning_rate),
        )
        train(configuration, quiet=True)
        model, _ = load_run(f"{folder}/run")
    validation = build_data(data).validation
    found = evaluate(model, validation, epsilons=[setting.epsilon], steps=10, seed=seed)
    clean, pgd = found["clean"]["accuracy"], found["epsilons"][setting.epsilon]["pgd"]["accuracy"]
    return {"clean": clean, "pgd": pgd, "score": (clean + pgd) / 2}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("setting", choices=SETTINGS, help="The data set and its scale.")
    parser.add_argument("--data", help="The data set's folder, where it is not known by name.")
    parser.add_argument("--out", required=True, type=result_file, help="The JSON file to write.")
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    work = partial(
        score, setting=Setting(**{**asdict(setting), "data": options.data or setting.data})
    )
    labels = {
        f"{group}: {settings}": Arm(f"{group}: {settings}", method, settings)
        for group, (method, candidates) in CANDIDATES[options.setting].items()
        for settings in candidates
    }
    seeds = range(FIRST_SEED, FIRST_SEED + setting.seeds)
    console = Console(highlight=False)
    plan = Plan(tuple(labels.values()), tuple(seeds))
    outcome = run_plan(
        plan, work, None, lambda done, total, what: print(f"{done}/{total} {what}", flush=True)
    )
    if outcome.interrupted:
        raise SystemExit("Interrupted; nothing is written.")
    table = []
    for label, arm in labels.items():
        rows = [row for row in outcome.rows if row["arm"] == label]
        figures = {
            name: {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else None}
            for name in ("clean", "pgd", "score")
            if (values := [row[name] for row in rows])
        }
        table.append(
            {
                "group": label.split(":")[0],
                "method": arm.method,
                "settings": arm.settings,
                **figures,
            }
        )
    best = {
        group: max(
            (row for row in table if row["group"] == group), key=lambda row: row["score"]["mean"]
        )
        for group in CANDIDATES[options.setting]
    }
    for row in table:
        mark = "*" if row is best[row["group"]] else " "
        console.print(f"{mark} {row['group']:28} {row['score']['mean']:.4f}  {row['settings']}")
    results = {
        "setting": asdict(setting),
        "seeds": list(seeds),
        "candidates": table,
        "best": {group: row["settings"] for group, row in best.items()},
        "failures": [asdict(failure) for failure in outcome.failures],
    }
    save(options.out, **results)


if __name__ == "__main__":
    run(main)
