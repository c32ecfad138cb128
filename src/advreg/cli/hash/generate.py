"""`advreg hash generate`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from advreg.cli.parsing import Parser, write_out

EXAMPLES = """\
examples:
  Digits, a minute on one core:
    advreg hash generate --data digits --out runs/generator

  CIFAR-10's 5,000 training images of the split cifar10-1, on a GPU:
    advreg hash generate --data cifar10 --data.split cifar10-1 --kind sngan-resnet \\
        --steps 20000 --critic_steps 5 --device cuda --out runs/generator-cifar10

  After an interrupt:
    advreg hash generate --data digits --out runs/generator --resume

The generator is trained on the split's training images alone. Its folder holds samples/ (grids
through the training), nearest.png (samples above their nearest training images), metrics.jsonl and
generated.npz, the images that advreg hash train --generated.folder takes.
"""


def build_parser() -> Parser:
    """The parser of `advreg hash generate`."""
    from advreg.hashing.generator import GeneratorSettings
    from advreg.hashing.settings import HashDataSettings

    parser = Parser(
        prog="advreg hash generate",
        description="Trains a generator of images and draws those that regularise codes.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--out", type=str, default="", help="A new or empty folder.")
    parser.add_argument(
        "--resume", action="store_true", help="Go on with the training in --out, if there is one."
    )
    parser.add_argument("--pool", type=int, default=5000, help="Images to draw at the end.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda.")
    data = parser.add_argument_group("data")
    varied = {"augment", "padding", "crop_step", "view_epochs", "view_block"}
    data.add_class_arguments(HashDataSettings, "data", as_group=False, skip=varied)
    parser.add_argument_group("generator").add_class_arguments(GeneratorSettings, as_group=False)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Trains a generator."""
    given = build_parser().read(write_out(arguments)).as_dict()
    from rich.console import Console

    from advreg.errors import ConfigurationError
    from advreg.files import as_argument
    from advreg.hashing.data import load_images, split_images
    from advreg.hashing.generator import GeneratorSettings
    from advreg.hashing.stage_one import train_for_split
    from advreg.progress import Clock, ProgressBar
    from advreg.training.builders import choose_device

    out, pool, resume = given.pop("out"), given.pop("pool"), given.pop("resume")
    device, data = choose_device(given.pop("device")), given.pop("data")
    if not out:
        raise ConfigurationError("No folder is named; name a new one with --out.")
    if pool < 1:
        raise ConfigurationError(f"pool is {pool}; give a whole number of at least 1.")
    settings = GeneratorSettings(**given)
    images = load_images(data["name"], data["download"])
    split = split_images(
        images, data["split"], query=data["query"], train=data["train"], seed=data["seed"]
    )
    with ProgressBar(Console(highlight=False), "generating") as bar:
        clock = Clock(bar)

        def report(step: int, text: str | None) -> None:
            clock.at(step, settings.steps, f"step {step}/{settings.steps}")
            if text is not None:
                bar.print(text)

        result = train_for_split(
            images, split, settings, out, pool=pool, resume=resume, device=device, report=report
        )
    found = result.likeness
    print(
        f"Spread of the generated images {found.spread:.2f}, distance to the nearest training image"
        f" {found.distance_to_training:.2f}, to each other {found.distance_to_others:.2f} (1 is as"
        " the training images are)."
    )
    if result.diagnosis is not None:
        print(result.diagnosis)
    picture, folder = (
        result.folder.path / "nearest.png",
        shlex.quote(as_argument(result.folder.path)),
    )
    print(f"Look at {picture}; next: advreg hash train --generated.folder {folder}")
    return 0
