"""`advreg hash demo`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

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
    parser.add_argument("--out", type=str, default="runs/hash-demo", help="Where the page goes.")
    parser.add_argument("--seeds", type=int, default=10, help="Runs of each way of training.")
    parser.add_argument(
        "--workers", type=int | None, default=None, help="Processes; null is one for each core."
    )
    text = "What advreg hash generate --data digits left; null trains one."
    parser.add_argument("--generator", type=str | None, default=None, help=text)
    parser.add_argument(
        "--quick", type=bool, default=False, help="Shortened, to see that everything works."
    )
    parser.add_argument(
        "--overwrite", type=bool, default=False, help="Replace the results that --out holds."
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Runs the demonstration."""
    options = build_parser().read(arguments)
    if options.seeds < 2:
        raise ConfigurationError(
            f"seeds is {options.seeds}; give at least 2, for a standard error needs two."
        )
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
