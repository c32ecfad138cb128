"""`advreg sites`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  What layerwise training perturbs in a ResNet-20 when no sites are named:
    advreg sites --model resnet20

  The input and every block's output; * is one part of a dotted name, ** any number:
    advreg sites --model wrn-16-4 --sites 'input,stages.*.*'

  A network of one's own, from the function net in mine.py in this folder:
    advreg sites --model mine:net

  A network for the digits:
    advreg sites --model convnet --in_channels 1 --image_size 8
"""


def build_parser() -> Parser:
    """The parser of `advreg sites`."""
    parser = Parser(
        prog="advreg sites",
        description="Lists the sites of a network, their shapes and the bytes of their memories.",
        epilog=EXAMPLES,
    )
    text = "A name that advreg train --model takes, one's own module:function too."
    parser.add_argument("--model", type=str, default="resnet20", help=text)
    parser.add_argument(
        "--sites", type=list[str] | None, default=None, help="Globs with commas between them."
    )
    parser.add_argument("--num_classes", type=int, default=10, help="Outputs of the network.")
    parser.add_argument("--in_channels", type=int, default=3, help="1 for grey, 3 for colour.")
    parser.add_argument("--image_size", type=int, default=32, help="Height and width in pixels.")
    parser.add_argument("--batch_size", type=int, default=128, help="Examples in a mini-batch.")
    parser.add_argument("--epsilon", type=str, default="0.1", help="The budget, as in training.")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Prints a table of the sites."""
    options = build_parser().read(arguments)
    import torch
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from advreg.errors import ConfigurationError
    from advreg.layerwise import LayerwiseAdversary
    from advreg.models import build_model

    for name in ("image_size", "batch_size"):
        if options[name] < 1:
            raise ConfigurationError(f"{name} is {options[name]}; give a number of at least 1.")
    adversary = LayerwiseAdversary(epsilon=options.epsilon, sites=options.sites)
    model = build_model(options.model, options.num_classes, options.in_channels, options.image_size)
    size = options.image_size
    image = torch.zeros(options.batch_size, options.in_channels, size, size)
    table = Table("site", "shape", "budget", "memory", title=Text(options.model))
    described = adversary.describe(model, image)
    for site in described:
        names = " = ".join((site.name, *site.aliases))
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in site.shapes) or "did not run"
        unit = " of its RMS" if site.relative else ""
        table.add_row(
            Text(names), shapes, f"{site.epsilon:g}{unit}", f"{site.memory_bytes:,} bytes"
        )
    console = Console()
    console.print(table)
    console.print(f"All memories: {sum(site.memory_bytes for site in described):,} bytes")
    return 0
