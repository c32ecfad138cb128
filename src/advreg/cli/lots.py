"""`advreg lots`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from advreg.cli.parsing import Parser
from advreg.errors import ConfigurationError

EXAMPLES = """\
examples:
  What every block of a run's network looks at, on four pairs of test images:
    advreg lots runs/first

  Some layers, pairs of one's own (origin:target), and a page beside the run:
    advreg lots runs/first --layers 'blocks.*,linear' --pairs 12:40,7:33 --out lots.html

  Until a layer's features have come within a tenth of the first distance:
    advreg lots runs/first --until 0.1 --steps 500
"""


def build_parser() -> Parser:
    """The parser of `advreg lots`."""
    parser = Parser(
        prog="advreg lots",
        description=(
            "Moves test images until a layer shows an image of another class, layer by layer, and"
            " draws what had to change: one page, with how far images must move."
        ),
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=str, help="The run's folder.")
    text = "Globs over the modules' names, commas between them; null is input, stages and blocks."
    parser.add_argument("--layers", type=list[str] | None, default=None, help=text)
    text = "How many pairs to draw, or test images, ORIGIN:TARGET with commas between them."
    parser.add_argument("--pairs", type=str, default="4", help=text)
    text = "When an image stops: class, or a share of the first distance, such as 0.1."
    parser.add_argument("--until", type=str, default="class", help=text)
    parser.add_argument("--steps", type=int, default=300, help="The most steps of an image.")
    parser.add_argument(
        "--step_size", type=str, default="1/255", help="The most that a pixel moves in a step."
    )
    text = "Pairs of every two classes to measure how far images must move; 0 leaves it out."
    parser.add_argument("--invariance", type=int, default=1, help=text)
    parser.add_argument(
        "--out", type=str | None, default=None, help="The page; null is lots.html in the folder."
    )
    parser.add_argument(
        "--data", type=str | None, default=None, help="Where the run's data are now, if moved."
    )
    text = "The run's own network, module:function, whose code is imported if named here."
    parser.add_argument("--model", type=str | None, default=None, help=text)
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of the pairs that are drawn.")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Writes the page."""
    options = build_parser().read(arguments)
    if options.invariance < 0:
        raise ConfigurationError(
            f"invariance is {options.invariance}; give a number of pairs, or 0 to leave it out."
        )
    from pathlib import Path

    from rich.console import Console

    from advreg.files import check_folder
    from advreg.progress import ProgressBar
    from advreg.report.lots import with_quartiles
    from advreg.report.lots_page import write_lots_page
    from advreg.study.lots_page import make_page
    from advreg.training.builders import build_data, choose_device
    from advreg.training.folder import RunFolder
    from advreg.training.loading import check_test_data, load_run

    model, configuration = load_run(options.folder, options.model)
    settings = configuration.data
    data = build_data(replace(settings, name=options.data or settings.name))
    folder, console = RunFolder(options.folder), Console(highlight=False)
    check_test_data(folder, data)
    out = Path(options.out or folder.path / "lots.html")
    check_folder(out.parent)  # before minutes of steps
    if out.exists() and not out.is_file():
        raise ConfigurationError(f"{out} is a folder or a device; name a file with --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    model.to(choose_device(options.device))
    with ProgressBar(console, "moving images") as bar:
        page = make_page(
            model,
            data.test,
            run=str(options.folder),
            network=configuration.model.name,
            data_name=data.name,
            layers=options.layers,
            pairs=options.pairs,
            until=options.until,
            steps=options.steps,
            step_size=options.step_size,
            invariance=options.invariance,
            seed=options.seed,
            command=shlex.join(["advreg", "lots", *arguments]),
            progress=bar,
        )
    write_lots_page(page, out)
    for one in page.invariance:
        console.print(
            f"{one.layer}: {with_quartiles(one.rms)} RMS, {with_quartiles(one.largest)} at most,"
            f" in 1/255; {one.arrived:.0%} of {one.pairs} pairs arrived.",
            markup=False,
        )
    console.print(f"Written to {out}", soft_wrap=True, markup=False)
    return 0
