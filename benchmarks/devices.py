"""How fast one run trains on one device and on two, and how busy the machine was meanwhile.

python benchmarks/devices.py --out benchmarks/results/devices_cpu.json
"""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import median

from harness import arguments, result_file, run, save

from advreg.training import (
    Configuration,
    DataSettings,
    MethodSettings,
    ModelSettings,
    RunSettings,
    train,
)

METHODS = ("standard", "layerwise")


def examples_per_second(method: str, devices: int, options: Namespace) -> tuple[float, float]:
    """The median over the epochs after the first, and the load of the machine after them."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            Configuration(
                # A thread each: a second device is a second core, and nothing else differs.
                RunSettings(
                    str(Path(folder, "run")),
                    options.epochs,
                    batch_size=64,
                    threads=1,
                    devices=devices,
                    device=options.device,
                    tensorboard=False,
                    monitor=False,
                ),
                DataSettings("digits", limit=options.limit + 64, validation=64),
                ModelSettings(options.model),
                MethodSettings(method, {}),
            ),
            quiet=True,
        )
    later = [line["seconds"] for line in result.metrics[1:]]
    return options.limit / median(later), os.getloadavg()[0]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", required=True, type=result_file, help="The JSON file to write.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--model", default="convnet", help="A network of the package.")
    parser.add_argument("--epochs", type=int, default=6, help="The first one is not counted.")
    parser.add_argument("--limit", type=int, default=1024, help="Training images.")
    options = parser.parse_args()
    table = {}
    for method in METHODS:
        for devices in (1, 2):
            speed, load = examples_per_second(method, devices, options)
            table[f"{method}, {devices} device{'s' * (devices > 1)}"] = {
                "examples a second": speed,
                "load of the machine": load,
            }
            print(method, devices, round(speed), "examples a second, load", round(load, 1))
    settings = {name: getattr(options, name) for name in ("device", "model", "epochs", "limit")}
    save(options.out, settings=settings, cores=os.cpu_count(), rows=table)


if __name__ == "__main__":
    run(main)
