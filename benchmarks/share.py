"""Which rule lets several sites share a large budget without a collapse, on 128 digits.

python benchmarks/share.py --out benchmarks/results/share_digits.json
"""

from __future__ import annotations

from functools import partial
from statistics import mean, stdev

from digits import Scale, train_and_attack
from harness import arguments, finished, result_file, run, save

from advreg.study.plan import Arm, Plan, run_plan

SEEDS = tuple(range(2000, 2006))
SITES = ["input", "blocks.*"]
ARMS = (
    Arm("plain", "standard"),
    *(
        Arm(
            f"{memory} memory, every site, 0.2, budget_split={share}",
            "layerwise",
            {"sites": SITES, "epsilon": 0.2, "memory": memory, "budget_split": share},
        )
        for memory in ("slot", "example")
        for share in (None, "root", "sum")
    ),
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", required=True, type=result_file, help="The JSON file to write.")
    options = parser.parse_args()
    work = partial(train_and_attack, scale=Scale(epsilons=(0.1, 0.2)))
    outcome = finished(run_plan(Plan(ARMS, SEEDS), work))
    table = {}
    for arm in ARMS:
        rows = [row for row in outcome.rows if row["arm"] == arm.label]
        figures = {"clean": [row["clean"] for row in rows]}
        figures["pgd 0.1"] = [row["pgd"]["0.1"] for row in rows]
        figures["last training loss"] = [row["training"]["train_loss"][-1] for row in rows]
        table[arm.label] = {
            "settings": arm.settings,
            **{name: {"mean": mean(v), "deviation": stdev(v)} for name, v in figures.items()},
            "runs that warned of a collapse": sum(bool(row["warnings"]) for row in rows),
        }
        print(arm.label, {name: round(mean(v), 4) for name, v in figures.items()})
    save(options.out, seeds=SEEDS, arms=table)


if __name__ == "__main__":
    run(main)
