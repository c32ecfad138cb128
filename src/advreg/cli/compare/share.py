"""`advreg compare run STUDY`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from advreg.cli.compare.options import add_study, add_workers, planned
from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

EXAMPLES = """\
examples:
  One run, by its index in the plan:
    advreg compare run studies/claim_b_layers.yaml --size smoke --out runs/layers --index 3

  Every fourth run, beginning with the first:
    advreg compare run studies/claim_b_layers.yaml --size smoke --out runs/layers --shard 0/4

Finished runs are skipped, unfinished ones go on where they were, failed ones are tried again. The
exit code is 1 where a run failed, or another process is at work on it.
"""


def build_parser() -> Parser:
    """The parser of `advreg compare run`."""
    parser = Parser(
        prog="advreg compare run", description="Does some runs of a study.", epilog=EXAMPLES
    )
    add_study(parser)
    text = "The run of this index alone, from 0."
    parser.add_argument("--index", type=int | None, default=None, help=text)
    text = "I/N: the runs whose index leaves I when divided by N."
    parser.add_argument("--shard", type=str | None, default=None, help=text)
    add_workers(parser)
    return parser


def chosen(total: int, index: int | None, shard: str | None) -> range:
    """The indices that are meant.

    Raises:
        ConfigurationError: Neither or both are given, or there is no such run.
    """
    if (index is None) == (shard is None):
        raise ConfigurationError("Give either --index I or --shard I/N.")
    if index is not None:
        if not 0 <= index < total:
            raise ConfigurationError(
                f"There is no run {index}; the study has {total}, from 0 to {total - 1}."
            )
        return range(index, index + 1)
    found = re.fullmatch(r"(\d+)/(\d+)", str(shard))
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigurationError(f"--shard is {shard!r}; give I/N with I from 0 to N - 1.")
    return range(int(found[1]), total, int(found[2]))


def run(arguments: Sequence[str]) -> int:
    """Does the chosen runs."""
    options = build_parser().read(arguments)
    from advreg.study.compare import run_study
    from advreg.study.engines import Here

    _, runs, out = planned(options)
    mine = [runs[place] for place in chosen(len(runs), options.index, options.shard)]
    counts = run_study(mine, out, engine=Here(options.workers, options.per_device))
    left = counts["failed"] + counts["busy"]
    if left:
        print(
            f"advreg: {counts['failed']} runs failed and {counts['busy']} are another process's;"
            " the same command tries them again.",
            file=sys.stderr,
        )
    return 1 if left else 0
