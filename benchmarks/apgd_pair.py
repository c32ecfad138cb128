"""AutoAttack's two APGD attacks on many test images of a run, in parts, so that it can go on.

The images are drawn class by class with seed 0. The pair is the part of AutoAttack that finds
nearly all it finds; its figure is an upper bound of AutoAttack's.

    python benchmarks/apgd_pair.py RUN --epsilon 8/255 --images 1000 --out FILE
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from harness import count, result_file, run, save

from advreg.attacks import Linf, autoattack
from advreg.errors import ConfigurationError
from advreg.training import load_run
from advreg.training.builders import build_data
from advreg.units import non_negative

CHUNK = 50


def main() -> None:
    """Attacks what is still left, and writes the figures after each chunk."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--images", type=count, default=1000)
    parser.add_argument("--out", type=result_file, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, configuration = load_run(options.run)
    test = build_data(configuration.data).test
    classes = len(test.classes)
    generator = torch.Generator().manual_seed(0)
    each = [(test.targets == kind).nonzero().flatten() for kind in range(classes)]
    drawn = [rows[torch.randperm(len(rows), generator=generator)] for rows in each]
    drawn = [rows[: options.images // classes] for rows in drawn]
    chosen = torch.cat(drawn)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    held = {"images": 0, "clean": 0, "robust": 0, "seconds": 0.0}
    settings = {"run": options.run, "epsilon": options.epsilon, "images": options.images}
    if options.out.is_file():
        found = json.loads(options.out.read_text(encoding="utf-8"))
        if found["settings"] != settings:
            raise ConfigurationError(f"{options.out} is of {found['settings']}; name another file.")
        held = found["counts"]
    threat = Linf(non_negative(options.epsilon, "epsilon"))
    for rows in chosen[held["images"] :].split(CHUNK):
        images, targets = test.images[rows].float() / 255, test.targets[rows]
        began = time.monotonic()
        attacked = autoattack(model, images, targets, threat, attacks=["apgd-ce", "apgd-t"])
        with torch.no_grad():
            held["clean"] += int((model(images).argmax(1) == targets).sum())
            held["robust"] += int((model(attacked).argmax(1) == targets).sum())
        held["images"] += len(rows)
        held["seconds"] += time.monotonic() - began
        save(options.out, settings=settings, method=configuration.to_dict()["method"], counts=held)


if __name__ == "__main__":
    run(main)
