"""Measures on one CUDA card, in order of value, and never past the minutes that it is given."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu import hashing, steps, trainings
from benchmarks.gpu.common import Clock, describe

EPILOG = """\
pieces, each of which writes its own file as it ends:
  smoke      imports, versions, and one attached training step (seconds)
  tests      tests/gpu, where pytest is installed
  steps      step time and peak memory of plain, layerwise and FGSM training
  trainings  PreActResNet-18 on CIFAR-10, all arms at once on the card for the same wall time,
             measured with PGD-10 and AutoAttack's APGD pair
  hashing    codes of CIFAR-10 by ResNet-18 and AlexNet: a generator, then the arms of
             studies/hashing_cifar10.yaml at once, seed by seed while there is time

examples:
  Everything, on a machine with a card, torch and CIFAR-10's parquet files:
    python -m benchmarks.gpu --minutes 9 --data data/cifar10 --out gpu

  In two calls, where not all data can be there at once:
    python -m benchmarks.gpu --minutes 4 --pieces smoke,tests,steps --out gpu
    python -m benchmarks.gpu --minutes 9 --pieces trainings --data data/cifar10 --out gpu

  Codes alone:
    python -m benchmarks.gpu --minutes 9 --pieces hashing --data data/cifar10 --out gpu

  The same path in small, on a CPU:
    python -m benchmarks.gpu --minutes 4 --toy --data digits --out toy
"""


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="in all (9)")
    parser.add_argument("--data", default="cifar10", help="of the trainings (cifar10)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result files")
    parser.add_argument("--pieces", default="smoke,tests,steps,trainings", help="in this order")
    parser.add_argument("--arms", default=",".join(trainings.ARMS), help="of the trainings")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (0)")
    parser.add_argument("--toy", action="store_true", help="small, also on a CPU")
    return parser


def main() -> int:
    """Runs the pieces; one that fails leaves its error in its file, and the others go on."""
    options = build_parser().parse_args()
    pieces: dict[str, Callable[[argparse.Namespace, Clock], Any]] = {
        "smoke": steps.smoke,
        "tests": steps.run_tests,
        "steps": steps.measure_steps,
        "trainings": trainings.train_all,
        "hashing": hashing.compare_codes,
    }
    names = options.pieces.split(",")
    if unknown := [name for name in names if name not in pieces]:
        print(
            f"There is no piece {unknown[0]!r}; choose from {', '.join(pieces)}.", file=sys.stderr
        )
        return 2
    if unknown := [name for name in options.arms.split(",") if name not in trainings.ARMS]:
        choices = ", ".join(trainings.ARMS)
        print(f"There is no arm {unknown[0]!r}; choose from {choices}.", file=sys.stderr)
        return 2
    clock = Clock(options.minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        began = time.monotonic()
        try:
            results = pieces[name](options, clock)
        except Exception as error:
            traceback.print_exc()
            results, failed = {"error": f"{type(error).__name__}: {error}"}, [*failed, name]
        path = options.out / f"{name}{'_toy' if options.toy else ''}.json"
        whole = {"piece": name, **describe(options), "results": results}
        whole["seconds"] = round(time.monotonic() - began, 1)
        path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {whole['seconds']} s, {path}; {clock.left():.0f} s left", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
