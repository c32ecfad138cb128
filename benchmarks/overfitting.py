"""Makes catastrophic overfitting happen, and looks whether the PGD monitor calls it.

FGSM training (N-FGSM without its noise) on a little of CIFAR-10, beside N-FGSM and the layerwise
method at the same budget. Of every epoch the monitor's FGSM and PGD-10 accuracies on 128 validation
images are kept, and in the end FGSM and PGD-20 on test images.

The layerwise arm accumulates from a random start. Without both it had been at PGD 0 to 8 % for six
epochs when it was stopped, which would have shown nothing.

    python benchmarks/overfitting.py --cifar10 FOLDER --runs runs/overfitting \\
        --out benchmarks/results/catastrophic_overfitting.json

FOLDER holds CIFAR-10 as parquet files. Half an hour on two idle cores; started again after a kill,
it goes on with the runs that there are.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from functools import partial
from typing import Any

from harness import arguments, finished, result_file, run, save

from advreg.errors import AdvregWarning
from advreg.evaluation import evaluate
from advreg.methods import Layerwise
from advreg.models import build_model
from advreg.study import Arm, Plan, run_plan
from advreg.training import Configuration, DataSettings, RunFolder, train
from advreg.training.builders import build_data

EPSILON = 8 / 255
TRAINING = {
    "epochs": 20,
    "batch_size": 64,
    "threads": 1,
    "device": "cpu",
    "tensorboard": False,
    "model": "resnet20",
    "optimizer": {"learning_rate": 0.2},
}
IMAGES = {"limit": 5000, "augment": "none"}
TEST_IMAGES, STEPS = 500, 20

ACCUMULATING = {"memory": "example", "step_size": "10/255", "start": "random"}
"""As in cifar10_example_memory.json."""

ARMS = (
    Arm("FGSM", "n_fgsm", {"epsilon": EPSILON, "noise": 0.0}),
    Arm("N-FGSM", "n_fgsm", {"epsilon": EPSILON}),
    Arm("layerwise, example memory", "layerwise", {"epsilon": EPSILON, **ACCUMULATING}),
)


def watch(arm: Arm, seed: int, *, images: str, runs: str) -> dict[str, Any]:
    """Trains one network under the monitor and attacks the weights of its last epoch."""
    # The monitor looks at methods that train on one-step attacks; here at this one beside them.
    Layerwise.single_step = True
    warnings.simplefilter("ignore", AdvregWarning)  # kept in the metrics
    out = f"{runs}/{arm.label.replace(', ', '-').replace(' ', '-')}-{seed}"
    data = {**IMAGES, "name": images, "seed": seed}
    parts = {"data": data, "method": {"name": arm.method, **arm.settings}}
    run = {**TRAINING, **parts, "seed": seed, "out": out}
    epochs = train(Configuration.from_dict(run), resume=True, quiet=True).metrics
    last = RunFolder(out).load(RunFolder(out).last)
    model = build_model(**last["architecture"])
    model.load_state_dict(last["model"])
    test = build_data(DataSettings(**data)).test
    found = evaluate(model, test, epsilons=[EPSILON], limit=TEST_IMAGES, steps=STEPS, seed=seed)
    (attacked,) = found["epsilons"].values()
    names = ("epoch", "train_loss", "validation_accuracy", "monitor_fgsm", "monitor_pgd")
    return {
        "epochs": [{name: line[name] for name in names} for line in epochs],
        "said": {line["epoch"]: line["warnings"] for line in epochs if "warnings" in line},
        "test": {"clean": found["clean"]["accuracy"]}
        | {name: attacked[name]["accuracy"] for name in ("fgsm", "pgd")},
    }


def reading(row: dict[str, Any]) -> str:
    """What the monitor's figures say of one run."""
    best = max(line["monitor_pgd"] for line in row["epochs"])
    last = row["epochs"][-1]
    called = [epoch for epoch, said in row["said"].items() if "Catastrophic" in " ".join(said)]
    verdict = f"called in epoch {called[0]}" if called else "not called"
    return (
        f"{row['arm']}, seed {row['seed']}: catastrophic overfitting {verdict};"
        f" PGD-10 {best:.0%} at best, {last['monitor_pgd']:.0%} in the end where FGSM leaves"
        f" {last['monitor_fgsm']:.0%}; on test images clean {row['test']['clean']:.1%}, FGSM"
        f" {row['test']['fgsm']:.1%}, PGD-{STEPS} {row['test']['pgd']:.1%}"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--cifar10", required=True, help="A folder of CIFAR-10's parquet files.")
    parser.add_argument("--runs", required=True, help="A folder to keep the runs in.")
    parser.add_argument("--seeds", type=int, default=1, help="Runs of each method (1).")
    parser.add_argument("--workers", type=int, help="Runs at a time; one a core if left out.")
    parser.add_argument("--out", required=True, type=result_file, help="The JSON file to write.")
    options = parser.parse_args()

    def progress(done: int, total: int, what: str) -> None:
        print(f"{done}/{total} {what}", flush=True)

    plan = Plan(ARMS, tuple(range(options.seeds)))
    work = partial(watch, images=options.cifar10, runs=options.runs)
    outcome = finished(run_plan(plan, work, options.workers, progress))
    results = {
        "readings": [reading(row) for row in outcome.rows],
        "epsilon": "8/255",
        "training": {**TRAINING, "data": {**IMAGES, "name": "cifar10"}},
        "arms": [asdict(arm) for arm in ARMS],
        "runs": outcome.rows,
    }
    save(options.out, **results)
    print(*results["readings"], sep="\n")


if __name__ == "__main__":
    run(main)
