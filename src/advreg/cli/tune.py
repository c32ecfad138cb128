"""`advreg tune STUDY`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from advreg.cli.compare.options import add_engine, add_study, engine_of, read
from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

EXAMPLES = """\
examples:
  Six runs for every arm, on validation images; then the study with what was found:
    advreg tune studies/claim_a_clean.yaml --size smoke --budget 6 --out runs/clean
    advreg compare runs/clean/tuned.yaml --out runs/clean
"""


def build_parser() -> Parser:
    """The parser of `advreg tune`."""
    parser = Parser(
        prog="advreg tune",
        description=(
            "Finds the settings of every arm of a study by successive halving on validation"
            " images, with the same number of runs for each."
        ),
        epilog=EXAMPLES,
    )
    add_study(parser)
    parser.add_argument("--budget", type=int, default=6, help="Runs for each arm, at most.")
    add_engine(parser)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Tunes a study."""
    options = build_parser().read(arguments)
    from rich.console import Console

    from advreg.files import as_argument
    from advreg.study.tuning import TUNED, tune

    study, out, places = read(options)
    if out is None:
        raise ConfigurationError("No folder is named; name the study's with --out.")
    found, _ = tune(
        study,
        out,
        options.budget,
        places,
        engine=engine_of(options),
        patience=math.inf,
    )
    console = Console(highlight=False)
    for group, arms in found.tuned.items():
        for arm, settings in arms.items():
            chosen = ", ".join(f"{name} {value}" for name, value in settings.items())
            console.print(f"{group}: {arm}: {chosen or 'nothing to set'}", markup=False)
    command = shlex.join(["advreg", "compare", as_argument(out / TUNED), "--out", as_argument(out)])
    console.print(f"Next: {command}", markup=False, soft_wrap=True)
    return 0
