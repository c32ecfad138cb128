"""`advreg evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  Clean accuracy, FGSM and PGD-20 at two budgets, on the first 1,000 test images:
    advreg evaluate runs/first --epsilons 2/255,8/255 --limit 1000

  A stronger attack on all of them:
    advreg evaluate runs/first --epsilons 8/255 --steps 50 --restarts 10

The figures are written to evaluation.json in the run's folder.
"""


def build_parser() -> Parser:
    """The parser of `advreg evaluate`."""
    parser = Parser(
        prog="advreg evaluate",
        description="Measures the network that a run deploys, clean and under attack.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=str, help="The run's folder.")
    parser.add_argument(
        "--epsilons",
        type=str,
        default="2/255,8/255",
        help="Budgets of the attacks in L-infinity, pixels being in [0, 1]; commas between them.",
    )
    parser.add_argument(
        "--limit", type=int | None, default=None, help="Only the first so many test images."
    )
    parser.add_argument("--steps", type=int, default=20, help="Steps of PGD.")
    parser.add_argument("--restarts", type=int, default=1, help="Random starts of PGD.")
    parser.add_argument("--batch_size", type=int, default=500, help="Images a pass.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of the attack's random starts.")
    return parser


def table_of(results: dict[str, Any], title: str) -> Any:
    """What was found, for a terminal."""
    from rich.table import Table

    table = Table("budget", "FGSM", "PGD", "worst of both", title=title)
    clean = results["clean"]["accuracy"]
    table.add_row("clean", *[f"{clean:.2%}"] * 3)
    for epsilon, found in results["epsilons"].items():
        table.add_row(
            epsilon, *[f"{found[key]['accuracy']:.2%}" for key in ("fgsm", "pgd", "worst")]
        )
    return table


def run(arguments: Sequence[str]) -> int:
    """Evaluates a run and writes `evaluation.json` into its folder."""
    options = build_parser().parse_args(list(arguments))
    from rich.console import Console
    from rich.progress import Progress

    from advreg.evaluation import evaluate
    from advreg.training.builders import build_data, choose_device
    from advreg.training.folder import RunFolder, load_run, replace_file

    device = choose_device(options.device)
    model, configuration = load_run(options.folder)
    epsilons = [part.strip() for part in options.epsilons.split(",") if part.strip()]
    data = build_data(configuration.data)
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating")
        results = evaluate(
            model.to(device),
            data.test,
            epsilons=epsilons,
            limit=options.limit,
            steps=options.steps,
            restarts=options.restarts,
            batch_size=options.batch_size,
            device=device,
            seed=options.seed,
            progress=lambda done, total, what: bar.update(
                task, completed=done, total=total, description=what
            ),
        )
    results = {"data": data.name, **results}
    path = RunFolder(options.folder).path / "evaluation.json"
    text = json.dumps(results, indent=2) + "\n"
    replace_file(path, lambda name: name.write_text(text, encoding="utf-8"))
    title = f"{options.folder}: {results['examples']} test images of {data.name}"
    console.print(table_of(results, title))
    if results["zero_gradient"]:
        console.print(
            f"At {results['zero_gradient']:.2%} of the images the gradient is zero:"
            " attacks by gradients say nothing about those."
        )
    console.print(f"Written to {path}", soft_wrap=True, highlight=False)
    return 0
