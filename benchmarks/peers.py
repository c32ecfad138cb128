"""Our methods beside those of other libraries: passes and seconds of a training step.

    pip install --no-deps torchattacks adversarial-robustness-toolbox six requests urllib3 \\
        certifi charset-normalizer
    curl -O https://raw.githubusercontent.com/davda54/sam/main/sam.py
    python benchmarks/peers.py --sam sam.py

All arms train copies of one network on the same random images in one run, by single steps in
turn, forth and back; torch's plain loop is the baseline. torchattacks and ART attack each
mini-batch at 8/255 (PGD: 10 steps of 2/255 from a random start) and train on what they return, as
their users do; they leave the mixing of clean images, which our `fgsm` does, to the user, so that
`rs_fgsm` is their FGSM's like. SAM's file is its best known implementation in PyTorch; Free's
authors have published a script, nothing to call, so Free is ours alone, a replay a step. What
cannot be imported is said to be missing. Passes are counted by hooks: forward calls of the
network, and backward passes through its output (an attack's skip the weights' gradients and so
take about two thirds of the time). Writes benchmarks/results/peers.json.
"""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from harness import (
    CONSOLE,
    RESULTS,
    arguments,
    figures,
    known_models,
    present_file,
    result_file,
    run,
    show,
    step_of,
    timed,
    write,
)
from peer_steps import STEP_SIZE, STEPS, art, attacked_step, count_passes, sam_step, torchattacks
from torch import nn

from advreg import Batch
from advreg.methods import build_method
from advreg.models import build_model
from advreg.study.cost import Step
from advreg.study.peak import Build
from advreg.study.workload import synthetic_batches, training_step

OURS: dict[str, dict[str, Any]] = {
    "layerwise": {},
    "fgsm": {},
    "rs_fgsm": {},
    "pgd": {"steps": STEPS, "step_size": STEP_SIZE},
    "free": {},
    "sam": {},
}


def our_step(stack: ExitStack, model: nn.Module, batches: tuple[Batch, ...], name: str) -> Step:
    return training_step(stack, model, batches, build_method(name, **OURS[name]))


def arms(model: nn.Module, batches: tuple[Batch, ...], sam: str) -> dict[str, Build]:
    given = {"model": model, "batches": batches}
    return {
        "plain": partial(step_of, **given),
        **{f"advreg {name}": partial(our_step, **given, name=name) for name in OURS},
        **{
            f"{library.__name__} {kind}": partial(
                attacked_step, **given, library=library, kind=kind
            )
            for library in (torchattacks, art)
            for kind in ("FGSM", "PGD")
        },
        "published SAM": partial(sam_step, **given, path=sam),
    }


def measure(options: Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_model(options.model, 10).to(options.device)
    batches = synthetic_batches((3, 32, 32), 10, options.batch_size, device=options.device)
    rows, builds = {}, {}
    for label, build in arms(model, batches, options.sam).items():
        try:
            with ExitStack() as stack:
                step = build(stack)
                step()
                rows[label] = {"passes": count_passes(step, type(model))}
            builds[label] = build
        except ImportError as error:
            rows[label] = {"not_measured": f"It cannot be imported: {error}"}
    seconds = timed(
        builds, options.device, rounds=options.rounds, threads=options.threads, repeats=1
    )
    for label, found in figures(seconds, "plain").items():
        rows[label] |= found
    return rows


def main() -> None:
    parser = arguments(__doc__, rounds=20, batch_size=128, threads=torch.get_num_threads())
    parser.add_argument(
        "--model", type=known_models, default="resnet20", help="a name of advreg.models (resnet20)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sam", type=present_file, default="", help="file of the published SAM")
    parser.add_argument(
        "--out", type=result_file, default=RESULTS / "peers.json", help="result file"
    )
    options = parser.parse_args()
    rows = measure(options)
    for label, row in rows.items():
        text = row.get("not_measured") or f"{show(row['over plain'])}, {row['passes']}"
        CONSOLE.print(f"{label:20} {text}")
    versions = {}
    for package in ("torchattacks", "adversarial-robustness-toolbox"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    settings = {**vars(options), "sam": Path(options.sam).name, "epsilon": "8/255"}
    write(options.out, settings, libraries=versions, rows=rows)


if __name__ == "__main__":
    run(main)
