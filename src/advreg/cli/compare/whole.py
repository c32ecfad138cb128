"""`advreg compare STUDY`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from advreg.cli.compare.options import add_engine, add_study, command, engine_of, planned
from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  Whether more layers help, in a minute or two; then in earnest, with your own copy of the data:
    advreg compare studies/claim_b_layers.yaml --size smoke --out runs/layers-smoke
    advreg compare studies/claim_b_layers.yaml --size cpu --data cifar10 --out runs/layers

  The same command goes on after an interrupt, tries failed runs again, and repeats no other.

  On the nodes of a Ray cluster that `ray start` has made:
    advreg compare studies/claim_b_layers.yaml --size cpu --engine ray --address head:6379 \\
        --out runs/layers

  One network of your own, one folder of images, and a recommendation:
    advreg compare --model nets:build --data photos --minutes 30 --out runs/photos

  The parts, for clusters; docs/studies.md has a file for Slurm, Kubernetes and xargs:
    advreg compare plan studies/claim_b_layers.yaml --size smoke
    advreg compare run studies/claim_b_layers.yaml --size smoke --out runs/layers --shard 0/4
    advreg compare collect studies/claim_b_layers.yaml --size smoke --out runs/layers
"""


def build_parser() -> Parser:
    """The parser of `advreg compare`."""
    parser = Parser(
        prog="advreg compare",
        description=(
            "Runs what is missing of a study, ways of training by seeds, and writes its results"
            " and its page."
        ),
        epilog=EXAMPLES,
    )
    add_study(parser)
    add_engine(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Runs a study to its end."""
    options = build_parser().read(arguments)
    from rich.console import Console

    from advreg.study.compare import finish, run_study

    study, runs, out = planned(options)
    run_study(runs, out, engine=engine_of(options), patience=math.inf)
    found = finish(study, runs, out, command(options), Console(highlight=False))
    return 1 if found.failures or found.missing else 0
