"""`advreg bench`."""

from __future__ import annotations

from collections.abc import Sequence

from advreg.cli.parsing import Parser

EXAMPLES = """\
examples:
  What every method costs on this machine, in two minutes or so:
    advreg bench

  Some methods, on the network and the batch that are meant to be trained:
    advreg bench --model wrn-16-4 --batch_size 128 --methods layerwise,fgsm,sam

  A network of one's own, from the function build() in nets.py in this folder:
    advreg bench --model nets:build --image_size 64 --out runs/bench-mine

  On a GPU, with more rounds for a narrower spread:
    advreg bench --device cuda --batch_size 512 --rounds 100
"""


def build_parser() -> Parser:
    """The parser of `advreg bench`."""
    parser = Parser(
        prog="advreg bench",
        description=(
            "Measures on random images what every method costs on this machine: the time of a"
            " training step and its peak of memory, relative to plain training. Steps of all"
            " methods take turns, so that a change of the machine's speed hits all of them."
        ),
        epilog=EXAMPLES,
    )
    text = "A network's name, or module:function for one of your own."
    parser.add_argument("--model", type=str, default="resnet20", help=text)
    parser.add_argument(
        "--methods",
        type=list[str] | None,
        default=None,
        help="Methods with commas between them, also composed ones (layerwise+sam),"
        " layerwise-hidden, layerwise-input and layerwise-example, and module:Class for one of"
        " your own; null is all but lots and label_smoothing.",
    )
    parser.add_argument("--batch_size", type=int, default=20, help="Images in a mini-batch.")
    parser.add_argument("--image_size", type=int, default=32, help="Height and width in pixels.")
    parser.add_argument("--in_channels", type=int, default=3, help="1 for grey, 3 for colour.")
    parser.add_argument("--num_classes", type=int, default=10, help="Outputs of the network.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda.")
    text = "Threads of the CPU while steps are timed; null leaves torch's choice."
    parser.add_argument("--threads", type=int | None, default=None, help=text)
    text = "How often each method has its turn, at least 20."
    parser.add_argument("--rounds", type=int, default=20, help=text)
    parser.add_argument("--repeats", type=int, default=1, help="Steps a turn.")
    text = "Where bench.json and bench.svg go."
    parser.add_argument("--out", type=str, default="runs/bench", help=text)
    text = "Replace the measurement that --out holds."
    parser.add_argument("--overwrite", type=bool, default=False, help=text)
    return parser


def run(arguments: Sequence[str]) -> int:
    """Measures and writes."""
    given = build_parser().read(arguments).as_dict()
    from advreg.study.bench import DEFAULT, BenchSettings, run_bench

    out, overwrite = given.pop("out"), given.pop("overwrite")
    methods = given.pop("methods")
    methods = DEFAULT if methods is None else tuple(methods)
    run_bench(BenchSettings(methods=methods, **given), out, overwrite)
    return 0
