"""`advreg hash compare`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  The study on photographs, hours on one core; the same command goes on after an interrupt:
    advreg hash compare studies/hashing_cifar10.yaml --out runs/hashing_cifar10

  Images that lie in a folder of parquet files; a shortened trial:
    advreg hash compare studies/hashing_cifar10.yaml --data data/cifar10 --quick --out runs/trial
"""


def build_parser() -> Parser:
    """The parser of `advreg hash compare`."""
    parser = Parser(
        prog="advreg hash compare",
        description=(
            "Trains codes in the ways that a study names, over several seeds, and writes a table"
            " and a page. What its folder holds already is not done again."
        ),
        epilog=EXAMPLES,
    )
    parser.add_argument("study", type=str, help="The study's YAML file.")
    parser.add_argument("--out", type=str, required=True, help="The study's folder.")
    parser.add_argument(
        "--workers", type=int | None, default=None, help="Processes; null is one for each core."
    )
    parser.add_argument(
        "--quick", type=bool, default=False, help="Shortened, to see that everything works."
    )
    text = "Where the images are, instead of what the study names."
    parser.add_argument("--data", type=str | None, default=None, help=text)
    text = "What advreg hash generate left for the same data; null trains one."
    parser.add_argument("--generator", type=str | None, default=None, help=text)
    text = "cpu, cuda or auto; processes share a card."
    parser.add_argument("--device", type=str, default="cpu", help=text)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Runs the study."""
    options = build_parser().read(arguments)
    from advreg.study.hashing import run_hash_study

    run_hash_study(
        options.study,
        options.out,
        options.workers,
        options.quick,
        options.data,
        options.generator,
        options.device,
    )
    return 0
