"""`advreg compare plan STUDY`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.compare.options import add_study, read
from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  How many runs there are, for a job array:
    advreg compare plan studies/claim_b_layers.yaml --size smoke | wc -l

  Which of them are done:
    advreg compare plan studies/claim_b_layers.yaml --size smoke --out runs/layers

A line is the run's index, its identity, its state, its group, arm and seed, and its epochs, with
tabs between them.
"""


def build_parser() -> Parser:
    """The parser of `advreg compare plan`."""
    parser = Parser(
        prog="advreg compare plan", description="Lists the runs of a study.", epilog=EXAMPLES
    )
    add_study(parser, needs_out=False)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Lists runs, a line each."""
    options = build_parser().read(arguments)
    from advreg.study.compare import plan
    from advreg.study.execution import state

    study, out, places = read(options)
    for one in plan(study, out, places):
        known = state(one, out) if out else "planned"
        cells = (one.index, one.id, known, one.group, one.arm, one.seed)
        print(*cells, one.configuration.run.epochs, sep="\t")
    return 0
