"""`advreg compare collect STUDY`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.compare.options import add_study, command, planned
from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  What there is so far, also while runs are under way:
    advreg compare collect studies/claim_b_layers.yaml --size smoke --out runs/layers
"""


def build_parser() -> Parser:
    """The parser of `advreg compare collect`."""
    parser = Parser(
        prog="advreg compare collect",
        description="Gathers what runs have left into results and a page; says what is missing.",
        epilog=EXAMPLES,
    )
    add_study(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Gathers what there is."""
    options = build_parser().read(arguments)
    from rich.console import Console

    from advreg.study.compare import finish

    study, runs, out = planned(options)
    console = Console(highlight=False)
    found = finish(study, runs, out, command(options), console)
    for one in found.failures:
        text = f"failed: {one['group']}: {one['arm']}, seed {one['seed']} ({one['reason']})"
        console.print(text, markup=False, soft_wrap=True)
    for one in found.missing:
        text = f"missing: {one['group']}: {one['arm']}, seed {one['seed']}"
        console.print(text, markup=False, soft_wrap=True)
    return 0
