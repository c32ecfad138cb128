"""`advreg hash evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  Retrieval, bits, and mAP under attack at two budgets with 20 and 100 steps:
    advreg hash evaluate runs/codes

  A quick look at the retrieval alone:
    advreg hash evaluate runs/codes --epsilons none

  A stronger attack, the worst of five restarts, on the first 200 queries:
    advreg hash evaluate runs/codes --restarts 5 --attacked 200

mAP is the expectation over random orders of equal distances, between its two bounds; what the
DeepHash-pytorch code would print stands beside it. The queries alone are attacked. All figures are
written to evaluation.json in the run's folder.
"""


def build_parser() -> Parser:
    """The parser of `advreg hash evaluate`."""
    parser = Parser(
        prog="advreg hash evaluate",
        description="Measures the codes of a run on its own split.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=str, help="The run's folder.")
    parser.add_argument("--ks", type=list[int], default=[100, 1000], help="Of mAP@k.")
    parser.add_argument("--radius", type=int, default=2, help="Of the precision within, in bits.")
    parser.add_argument(
        "--epsilons",
        type=str,
        default="2/255,8/255",
        help="L-infinity budgets of the attacks; commas between them, or none.",
    )
    parser.add_argument("--steps", type=list[int], default=[20, 100], help="Of the attacks.")
    parser.add_argument("--restarts", type=int, default=1, help="Of each attack.")
    parser.add_argument(
        "--attacked", type=int | None, default=None, help="Attack the first so many queries alone."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the attacks' random draws.")
    text = "The module:function of a backbone of your own that the run was trained with."
    parser.add_argument("--model", type=str | None, default=None, help=text)
    return parser


def map_table(found: dict[str, Any]) -> Any:
    """mAP and mAP@k with their bounds, for a terminal."""
    from rich.table import Table

    table = Table("figure", "expected", "pessimistic", "optimistic", "DeepHash-pytorch")
    for name, part in found["retrieval"].items():
        if name == "map" or name.startswith("map@"):
            columns = ("expected", "pessimistic", "optimistic", "deephash_pytorch")
            label = name.replace("map", "mAP")
            table.add_row(label, *[f"{part[column]:.2%}" for column in columns])
    return table


def attack_table(found: dict[str, Any]) -> Any:
    """mAP under each attack, for a terminal."""
    from rich.table import Table

    table = Table("budget", "steps", "mAP", "mAP under noise", "bits changed", "verdict")
    for attack in found["attack"]["attacks"]:
        table.add_row(
            attack["epsilon"],
            str(attack["steps"]),
            f"{attack['map']:.2%}",
            f"{attack['noise_map']:.2%}",
            f"{attack['bits_changed']:.2f}",
            "masked" if attack["masked"] else "it works",
        )
    return table


def sentences(found: dict[str, Any]) -> list[str]:
    """What the tables leave out."""
    retrieval, bits = found["retrieval"], found["bits"]
    within = retrieval["precision_within"]
    lines = [
        f"{found['split']} {found['code']}",
        f"Precision within radius {within['radius']}: {within['precision']:.2%};"
        f" {within['queries_that_find_nothing']} queries find nothing there."
        f" Search: {retrieval['milliseconds_per_query']:.3f} ms a query.",
        f"Bits of the queries: entropy {bits['entropy']:.2f}, worst balance"
        f" {bits['worst_balance']:.2f}, correlation {bits['correlation']:.2f},"
        f" {bits['constant_bits']} constant, {bits['distinct_codes']} distinct codes.",
    ]
    if found["generated_bits"] is not None:
        lines.append(f"Entropy on generated images: {found['generated_bits']['entropy']:.2f}.")
    return lines


def run(arguments: Sequence[str]) -> int:
    """Evaluates a run and writes `evaluation.json` into its folder."""
    options = build_parser().read(arguments)
    from rich.console import Console

    from advreg.hashing.evaluation import evaluate_run, write_evaluation
    from advreg.hashing.run import load_hash_run
    from advreg.progress import Clock, ProgressBar

    budgets = [part.strip() for part in options.epsilons.split(",") if part.strip()]
    budgets = [] if budgets == ["none"] else budgets
    found_run = load_hash_run(options.folder, options.model)
    console = Console()
    with ProgressBar(console, "evaluating") as bar:
        clock = Clock(bar)
        clock.expect(2 + len(budgets) * len(options.steps))
        found = evaluate_run(
            found_run,
            ks=options.ks,
            radius=options.radius,
            epsilons=budgets,
            steps=options.steps,
            restarts=options.restarts,
            attacked=options.attacked,
            seed=options.seed,
            report=lambda text: clock.did(1, text),
        )
    path = write_evaluation(found, found_run.folder.path)
    console.print(map_table(found))
    if found["attack"] is not None:
        console.print(attack_table(found))
    for line in sentences(found):
        console.print(line, markup=False, highlight=False)
    console.print(f"Written to {path}", soft_wrap=True, highlight=False, markup=False)
    return 0
