"""`advreg demo`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

EXAMPLES = """\
examples:
  The whole comparison, some minutes on two cores:
    advreg demo

  A quick trial:
    advreg demo --quick --seeds 3 --out runs/trial
"""


def build_parser() -> Parser:
    """The parser of `advreg demo`."""
    parser = Parser(
        prog="advreg demo",
        description=(
            "Trains on scikit-learn's digits with and without layerwise perturbations and the"
            " methods to weigh it against, over many seeds, and writes a table and a report."
        ),
        epilog=EXAMPLES,
    )
    parser.add_argument("--out", type=str, default="runs/demo", help="Where the report goes.")
    parser.add_argument("--seeds", type=int, default=10, help="Runs of each method.")
    text = "Further arms: methods with commas between them, module:Class for one of your own."
    parser.add_argument("--methods", type=list[str], default=[], help=text)
    parser.add_argument(
        "--workers", type=int | None, default=None, help="Processes; null is one for each core."
    )
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
    from advreg.study.demo import run_demo

    run_demo(
        options.out,
        options.seeds,
        options.workers,
        options.quick,
        options.overwrite,
        options.methods,
    )
    return 0
