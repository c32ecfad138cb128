"""What training does to a layer's invariance, and what training on LOTS images buys, on digits.

Plain training, FGSM training, layerwise training with both memories, and training on LOTS images:
the demo's network, images and epochs, from the same seeds. Of every network the accuracy, clean and
under attack, and how far images must move, layer by layer, before the layer shows an image of
another class. Runs that the file of rows holds already are not repeated.

    python benchmarks/lots_digits.py --rows runs/lots_digits.jsonl \\
        --out benchmarks/results/lots_digits.json --plot docs/images/lots.svg
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from digits import EXAMPLE, FGSM, PLAIN, SLOT, Scale, configuration, demo_arms
from harness import CONSOLE, RESULTS, arguments, count, result_file, run
from lots_plot import draw
from torch import Tensor, nn

from advreg.errors import CollapseWarning
from advreg.evaluation import evaluate
from advreg.evaluation.invariance import class_pairs, invariance, median_interval, spread
from advreg.files import replace_file
from advreg.models import build_model
from advreg.study.environment import environment
from advreg.study.plan import Arm
from advreg.study.statistics import estimate, paired
from advreg.training import RunFolder, train
from advreg.training.builders import build_data

LOTS, LOTS_DEFAULT = "LOTS training", "LOTS training, 8/255"
ARMS = (
    *(arm for arm in demo_arms() if arm.label in (PLAIN, FGSM, SLOT, EXAMPLE)),
    Arm(LOTS, "lots", {"step_size": 0.025}, "8 steps of 0.025: at most FGSM training's 0.2"),
    Arm(LOTS_DEFAULT, "lots", {}, "its own defaults"),
)
LAYERS = ("input", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "linear")
CRITERIA: dict[str, dict[str, Any]] = {
    "features": {"share": 0.25},
    "class": {"share": None, "until_class": True},
}
"""When a layer shows its target: the distance of the features has come down to a quarter of the
first, which a plainly trained network of another seed suggested; or the network says so."""
DESCENT = {"steps": 60, "step_size": 6 / 255}
EPSILONS, ATTACKED, PGD_STEPS = (0.1, 0.2), 400, 10


def trained(arm: Arm, seed: int) -> tuple[nn.Module, Any]:
    """A network of the last epoch, and the test images."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        settings = configuration(arm, seed, Scale(), str(Path(folder, "run")))
        result = RunFolder(train(settings, quiet=True).folder)
        last = result.load(result.last)
    model = build_model(**last["architecture"])
    model.load_state_dict(last["model"])
    return model.eval(), build_data(settings.data).test


def measure(arm: Arm, seed: int) -> dict[str, Any]:
    """One row: accuracies as shares, distances in 1/255, null where an image never arrived."""
    began = time.process_time()
    model, data = trained(arm, seed)
    found = evaluate(model, data, epsilons=EPSILONS, limit=ATTACKED, steps=PGD_STEPS, seed=seed)
    row = {
        "arm": arm.label,
        "seed": seed,
        "clean": found["clean"]["accuracy"],
        **{
            f"{attack} {epsilon}": figures[attack]["accuracy"]
            for attack in ("fgsm", "pgd")
            for epsilon, figures in found["epsilons"].items()
        },
    }
    if arm.label != LOTS_DEFAULT:
        row |= distances(model, data.images.float() / 255, data.targets, seed)
    return row | {"cpu_seconds": round(time.process_time() - began, 1)}


def distances(model: nn.Module, images: Tensor, targets: Tensor, seed: int) -> dict[str, Any]:
    """How far the pairs moved that the network classifies rightly at both ends."""
    origins, others = class_pairs(targets, 1, seed)
    with torch.no_grad():
        right = model(images).argmax(1) == targets
    kept = right[origins] & right[others]
    origins, others = origins[kept], others[kept]
    found = {
        name: invariance(model, images[origins], images[others], LAYERS, **criterion, **DESCENT)
        for name, criterion in CRITERIA.items()
    }
    return {
        "origins": targets[origins].tolist(),
        "targets": targets[others].tolist(),
        "moved": {
            name: {
                layer: {kind: in_255ths(getattr(one, kind)) for kind in ("rms", "largest")}
                for layer, one in by_layer.items()
            }
            for name, by_layer in found.items()
        },
    }


def in_255ths(values: Tensor) -> list[float | None]:
    return [round(255 * value, 1) if value < 1e9 else None for value in values.tolist()]


def numbers(values: list[float | None]) -> list[float]:
    return [float("inf") if value is None else value for value in values]


def finite(value: Any) -> Any:
    """Infinities as null, which JSON has."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and abs(value) == float("inf") else value


def accuracies(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with their intervals, and paired differences to plain and FGSM training."""
    figures = ["clean", *(f"{a} {e}" for a in ("fgsm", "pgd") for e in EPSILONS)]

    def by_seed(label: str, figure: str) -> dict[int, float]:
        return {row["seed"]: row[figure] for row in rows if row["arm"] == label}

    return {
        arm.label: {
            figure: {
                **asdict(estimate(list(by_seed(arm.label, figure).values()))),
                **{
                    f"over {other}": asdict(
                        estimate(paired(by_seed(arm.label, figure), by_seed(other, figure)))
                    )
                    for other in (PLAIN, FGSM)
                    if other != arm.label
                },
            }
            for figure in figures
        }
        for arm in ARMS
    }


def summarise(rows: list[dict[str, Any]], criterion: str, kind: str) -> dict[str, Any]:
    """By arm and layer the median over all pairs, and the paired difference of seeds' medians."""

    def samples(label: str, layer: str) -> dict[int, list[float]]:
        return {
            row["seed"]: numbers(row["moved"][criterion][layer][kind])
            for row in rows
            if row["arm"] == label and "moved" in row
        }

    summary: dict[str, Any] = {}
    for arm in ARMS[:-1]:
        for layer in LAYERS:
            own, plain = samples(arm.label, layer), samples(PLAIN, layer)
            medians, before = (
                {seed: spread(sample).median for seed, sample in one.items()}
                for one in (own, plain)
            )
            differences = paired(medians, before)
            known = all(abs(value) < 1e9 for value in differences)  # False for nan too
            summary.setdefault(arm.label, {})[layer] = {
                **spread([value for sample in own.values() for value in sample])._asdict(),
                "interval": median_interval(list(own.values())),
                "difference": asdict(estimate(differences)) if known else None,
            }
    return summary


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=count, default=5, help="runs of each arm (5)")
    parser.add_argument("--rows", required=True, type=result_file, help="finished runs, a line one")
    parser.add_argument(
        "--out", default=RESULTS / "lots_digits.json", type=result_file, help="the result file"
    )
    parser.add_argument("--plot", type=result_file, help="the picture, SVG; none by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    options.rows.touch()
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    done = {(row["arm"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for arm in ARMS:
            if (arm.label, seed) not in done:
                rows.append(measure(arm, seed))
                with options.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                CONSOLE.print(f"{arm.label}, seed {seed}: {rows[-1]['cpu_seconds']} s")
    rows = [row for row in rows if row["seed"] < options.seeds]
    results = {
        "settings": {
            "seeds": list(range(options.seeds)),
            "layers": LAYERS,
            "criteria": CRITERIA,
            **DESCENT,
            "attacked": ATTACKED,
            "pgd_steps": PGD_STEPS,
        },
        "arms": [asdict(arm) for arm in ARMS],
        "accuracy": accuracies(rows),
        "distances": {
            name: {kind: finite(summarise(rows, name, kind)) for kind in ("rms", "largest")}
            for name in CRITERIA
        },
        "rows": rows,
        "environment": environment(),
    }
    # A list of numbers on one line: there are tens of thousands.
    text = re.sub(
        r"\[[^\[\]{}]*\]",
        lambda found: " ".join(found[0].split()),
        json.dumps(results, indent=1, allow_nan=False),
    )
    replace_file(options.out, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    if options.plot:
        arms = tuple(arm.label for arm in ARMS[:-1])
        svg = draw(results, arms, (PLAIN, EXAMPLE), "blocks.3")
        replace_file(options.plot, lambda path: path.write_text(svg, encoding="utf-8"))


if __name__ == "__main__":
    run(main)
