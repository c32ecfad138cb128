"""Which rule lets several sites share a large budget without a collapse, on 128 digits.

python benchmarks/share.py --out benchmarks/results/share_digits.json
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from advreg.study.digits import Scale, train_and_attack
from advreg.study.environment import environment
from advreg.study.plan import Arm, Plan, run_plan

SEEDS = tuple(range(2000, 2006))
SITES = ["input", "blocks.*"]
ARMS = (
    Arm("plain", "standard"),
    *(
        Arm(
            f"{memory} memory, every site, 0.2, share={share}",
            "layerwise",
            {"sites": SITES, "epsilon": 0.2, "memory": memory, "share": share},
        )
        for memory in ("slot", "example")
        for share in (None, "root", "sum")
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    work = partial(train_and_attack, scale=Scale(epsilons=(0.1, 0.2)))
    outcome = run_plan(Plan(ARMS, SEEDS), work)
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
    results = {"seeds": SEEDS, "arms": table, "environment": environment()}
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
