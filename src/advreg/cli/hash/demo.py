"""`advreg hash demo`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.demo import add_common, read_options
from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  The whole comparison, some minutes on two cores:
    advreg hash demo

  A quick trial; with a generator that is there already:
    advreg hash demo --quick --seeds 2 --out runs/trial
    advreg hash demo --generator runs/generator
"""


def build_parser() -> Parser:
    """The parser of `advreg hash demo`."""
    parser = Parser(
        prog="advreg hash demo",
        description=(
            "Trains codes of scikit-learn's digits by triplets, with generated images, with"
            " layerwise perturbations, with both and with dropout, over several seeds, and writes"
            " a table and a page."
        ),
        epilog=EXAMPLES,
    )
    add_common(parser, "runs/hash-demo")
    text = "What advreg hash generate --data digits left; null trains one."
    parser.add_argument("--generator", type=str | None, default=None, help=text)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Runs the demonstration."""
    options = read_options(build_parser(), arguments)
    from advreg.study.hashing import run_hash_demo

    run_hash_demo(
        options.out,
        options.seeds,
        options.workers,
        options.quick,
        options.overwrite,
        options.generator,
    )
    return 0
