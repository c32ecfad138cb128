"""`advreg demo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

EXAMPLES = """\
examples:
  The whole comparison, some minutes on two cores:
    advreg demo

  A quick trial:
    advreg demo --quick --seeds 3 --out runs/trial

The same command goes on after an interrupt; --overwrite true begins anew.
"""


def build_parser() -> Parser:
    """The parser of `advreg demo`."""
    parser = Parser(
        prog="advreg demo",
        description=(
            "Trains on scikit-learn's digits with and without layerwise perturbations and the"
            " methods to weigh it against, over many seeds, and writes a study's table and page."
        ),
        epilog=EXAMPLES,
    )
    add_common(parser, "runs/demo")
    text = "Further arms: methods with commas between them, module:Class for one of your own."
    parser.add_argument("--methods", type=list[str], default=[], help=text)
    return parser


def add_common(parser: Parser, out: str) -> None:
    """The options of every demo.

    Args:
        parser: Is given them.
        out: The folder by default.
    """
    parser.add_argument("--out", type=str, default=out, help="Where the page goes.")
    parser.add_argument("--seeds", type=int, default=10, help="Runs of each way of training.")
    parser.add_argument(
        "--workers", type=int | None, default=None, help="Processes; null is one for each core."
    )
    parser.add_argument(
        "--quick", type=bool, default=False, help="Shortened, to see that everything works."
    )
    parser.add_argument(
        "--overwrite", type=bool, default=False, help="Replace the results that --out holds."
    )


def read_options(parser: Parser, arguments: Sequence[str]) -> Any:
    """What was given.

    Raises:
        ConfigurationError: There are too few seeds, or an option cannot work.
    """
    options = parser.read(arguments)
    if options.seeds < 2:
        raise ConfigurationError(
            f"seeds is {options.seeds}; give at least 2, for a standard error needs two."
        )
    return options


def run(arguments: Sequence[str]) -> int:
    """Runs the demonstration."""
    options = read_options(build_parser(), arguments)
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
