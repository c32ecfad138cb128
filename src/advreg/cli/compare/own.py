"""`advreg compare --model ... --data ...`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  The network that build() in nets.py in this folder returns, on a folder of images:
    advreg compare --model nets:build --data photos --minutes 30 --out runs/photos

  What helps against small changes of the images instead:
    advreg compare --model resnet20 --data photos --minutes 60 --goal robustness --out runs/robust

Plain training, dropout, layerwise training with slot and with example memory, and FGSM training
are tuned on validation images with as many runs each, then compared from three to five seeds, or
from as many as there is time for. The same command goes on after an interrupt, or for more minutes.
"""


def build_parser() -> Parser:
    """The parser of `advreg compare --model`."""
    parser = Parser(
        prog="advreg compare",
        description="Recommends a way of training for one network on one folder of images.",
        epilog=EXAMPLES,
    )
    text = "A network's name, or module:function for one of your own."
    parser.add_argument("--model", type=str, help=text)
    parser.add_argument("--data", type=str, default="digits", help="A data set, or a folder.")
    text = "How long it may take; what is not finished by then is saved and left out."
    parser.add_argument("--minutes", type=float, default=30.0, help=text)
    parser.add_argument("--goal", type=str, default="accuracy", help="accuracy or robustness.")
    parser.add_argument("--out", type=str, default="runs/compare", help="The study's folder.")
    text = "Processes; null is one for each core."
    parser.add_argument("--workers", type=int | None, default=None, help=text)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Asks, and prints the answer."""
    began = time.monotonic()
    options = build_parser().read(arguments)
    from pathlib import Path

    from advreg.study.question import answer
    from advreg.study.recommendation import Question

    question = Question(options.model, options.data, options.minutes, options.goal)
    found = answer(question, Path(options.out), options.workers, began)
    print("\n".join(found["sentences"]))
    print(f"\n  {found['command']}\n  {found['code']}")
    return 0
